"""Lists as parameters arrive as they are."""

from __future__ import annotations

from typing import Any

import pytest

from architex.storage.pool import Database


@pytest.mark.parametrize(
    ("array", "items"),
    [
        ("int8[]", [1, -1, 2**63 - 1, -(2**63), 40_000]),
        ("int8[]", [None, 3, None]),
        ("int2[]", [1, 2]),
        ("text[]", ["", "NULL", 'quoted "\\', "{a,b}", "\N{SNOWMAN}"]),
        ("text[]", [None, "a"]),
        ("bytea[]", [b"", b"\x00\xff", None]),
        ("bool[]", [True, False]),
        ("int8[]", [[1, 2], [3, 4]]),
        ("text[]", []),
        ("text[]", [None]),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_packed_list_arrives_as_it_is(
    database: Database, array: str, items: list[Any], times: int
) -> None:
    sql = f"SELECT %b::{array}"
    with database.connection() as connection:
        for _ in range(times):
            row = connection.execute(sql.encode(), (items,)).fetchone()
            assert row == (items,)


def test_statement_is_prepared_once_for_numbers_of_any_size(database: Database) -> None:
    with database.connection() as connection:
        for number in (1, 2**15, 2**31, 2**62):
            connection.execute("SELECT 'packed', %b::int8[]", ([number],))
        rows = connection.execute(
            "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT ''packed''%%'"
        ).fetchall()
    assert len(rows) == 1


def test_lists_of_several_types_are_refused(database: Database) -> None:
    with database.connection() as connection, pytest.raises(Exception, match="mixed types"):
        connection.execute("SELECT %b", ([1, "a"],))
