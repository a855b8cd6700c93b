"""The statements that a database is asked while a test looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict


@contextmanager
def noted_statements(conninfo: str) -> Iterator[list[str]]:
    """Every statement from now on, of whichever connection to this database.

    Other databases are not counted: one is made and one dropped for the tests at any time.
    """
    statements: list[str] = []
    name = conninfo_to_dict(conninfo)["dbname"]
    execute = psycopg.Connection.execute

    def noted(self: psycopg.Connection, query: Any, *args: Any, **kwargs: Any) -> Any:
        if self.info.dbname == name:
            statements.append(query.decode() if isinstance(query, bytes) else str(query))
        return execute(self, query, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", noted)
        yield statements
