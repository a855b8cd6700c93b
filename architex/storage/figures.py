"""Figures: how much there is, and how much waits, for the operator's graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from architex.storage.pool import Database

#: Name → what it is, and how PostgreSQL tells it. Each is cheap: no table is read from end to end.
FIGURES: Final[Mapping[str, tuple[str, str]]] = {
    "log_position": ("The newest position of the log.", "SELECT position FROM log_position"),
    "events": (
        "Events in the log, by PostgreSQL's estimate.",
        "SELECT greatest(reltuples, 0)::int8 FROM pg_class WHERE oid = 'stored_events'::regclass",
    ),
    "rooms": (
        "Rooms, by PostgreSQL's estimate.",
        "SELECT greatest(reltuples, 0)::int8 FROM pg_class WHERE oid = 'rooms'::regclass",
    ),
    "users": (
        "Accounts, by PostgreSQL's estimate.",
        "SELECT greatest(reltuples, 0)::int8 FROM pg_class WHERE oid = 'users'::regclass",
    ),
    "database_bytes": (
        "Size of the database.",
        "SELECT pg_database_size(current_database())",
    ),
    "database_connections": (
        "Connections to the database.",
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend'",
    ),
    "destinations_waiting": (
        "Servers that something waits for.",
        "SELECT count(*) FROM destinations WHERE delivered IS NOT NULL",
    ),
    "destinations_failing": (
        "Servers that something waits for and that did not answer the last time.",
        "SELECT count(*) FROM destinations WHERE delivered IS NOT NULL AND failures > 0",
    ),
    "reports": ("Reports that no administrator has deleted.", "SELECT count(*) FROM reports"),
}

_LAGS: Final = """
SELECT application_name, (SELECT position FROM log_position) - notification_id FROM tracking"""


def read_figures(database: Database) -> dict[str, int]:
    """The figures, in one statement: name → number."""
    columns = ", ".join(f"({question})" for _, question in FIGURES.values())
    row = database.fetch_one(f"SELECT {columns}")
    return dict(zip(FIGURES, row or (), strict=True))


def read_lags(database: Database) -> dict[str, int]:
    """Follower → positions between what it has seen and the end of the log."""
    return dict(database.fetch_all(_LAGS))
