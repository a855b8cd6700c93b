"""Whether a server is well after all that was done to it."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Final

from architex.bootstrap import all_projections
from architex.projections.rebuilding import rebuild_projection
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.pool import Database
from tests.projections.traffic import rows_of
from tests.server import RunningServer
from tests.waiting import eventually

PATIENCE_S: Final = 180.0
"""How long what waits may take: servers that were away are tried again after a growing time."""
OWED: Final = {
    "messages to devices": "SELECT 1 FROM to_device_outbox",
    "other servers": "SELECT 1 FROM destinations WHERE delivered IS NOT NULL",
    "events to judge": "SELECT 1 FROM waiting_pdus",
}
"""What has no rows when nobody is owed anything."""


def assert_well(server: RunningServer) -> None:
    """Nobody is owed anything, a rebuild changes nothing, and `architex verify` is content."""
    database = Database(conninfo_of(server), max_size=2)
    try:
        for what, rows in OWED.items():
            eventually(partial(_is_empty, database, rows), f"{what} still wait", PATIENCE_S)
        verified = _architex(server, "verify", "--max-load", "1")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        for projection in all_projections():
            before = {table: rows_of(database, table) for table in projection.tables}
            rebuild_projection(database, projection)
            after = {table: rows_of(database, table) for table in projection.tables}
            assert after == before, projection.name
    finally:
        database.close()


def _is_empty(database: Database, rows: str) -> bool:
    return database.fetch_one(rows) is None


def _architex(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "architex", *arguments, "--config", str(server.config_file)],
        capture_output=True,
        text=True,
        check=False,
    )


def conninfo_of(server: RunningServer) -> str:
    """How to connect to its embedded PostgreSQL."""
    return EmbeddedPostgres(server.data_dir / "postgres").conninfo()
