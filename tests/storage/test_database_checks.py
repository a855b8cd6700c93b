"""The server refuses a PostgreSQL that cannot keep its promises, and says what mends it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from architex.storage.database_checks import check_database
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.start_refusal import StartRefused


def _refusal(conninfo: str, **wanted: int) -> StartRefused:
    with pytest.raises(StartRefused) as refused:
        check_database(conninfo, **wanted)
    return refused.value


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A cluster as operators have it."""
    cluster = EmbeddedPostgres(tmp_path_factory.mktemp("durable") / "postgres")
    with cluster.running():
        yield cluster


def _database(cluster: EmbeddedPostgres, name: str, options: str) -> str:
    with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}".encode())
    return cluster.conninfo(name)


def test_our_own_is_accepted(durable: EmbeddedPostgres) -> None:
    check_database(durable.conninfo())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'", "builtin_c_utf8"),
        ("LOCALE 'C' ENCODING 'UTF8'", "libc_c"),
        ("LOCALE 'POSIX' ENCODING 'UTF8'", "libc_posix"),
    ],
)
def test_collation_by_code_point_is_accepted(
    durable: EmbeddedPostgres, options: str, name: str
) -> None:
    check_database(_database(durable, name, options))


def test_other_collation_is_refused(durable: EmbeddedPostgres) -> None:
    refusal = _refusal(_database(durable, "other", "LOCALE_PROVIDER libc LOCALE 'C.UTF-8'"))
    assert refusal.code == "A026"
    assert "createdb" in refusal.mend
    assert "--locale=C" in refusal.mend


def test_other_encoding_is_refused(durable: EmbeddedPostgres) -> None:
    refusal = _refusal(_database(durable, "latin", "ENCODING 'LATIN1' LOCALE 'C'"))
    assert refusal.code == "A025"


def test_synchronous_commit_off_is_refused(durable: EmbeddedPostgres) -> None:
    url = _database(durable, "hasty", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER DATABASE hasty SET synchronous_commit = off")
    refusal = _refusal(url)
    assert refusal.code == "A024"
    assert "ALTER SYSTEM SET synchronous_commit = on" in refusal.mend


@pytest.mark.parametrize(("setting", "code"), [("fsync", "A022"), ("full_page_writes", "A023")])
def test_undurable_cluster_is_refused(durable: EmbeddedPostgres, setting: str, code: str) -> None:
    directory = durable.directory.parent.parent / f"no-{setting}"
    directory.mkdir()
    cluster = EmbeddedPostgres(directory / "postgres", options={setting: "off"})
    with cluster.running() as conninfo:
        refusal = _refusal(conninfo)
    assert refusal.code == code
    assert setting in refusal.mend


def test_login_that_may_not_create_tables_is_refused(durable: EmbeddedPostgres) -> None:
    with psycopg.connect(durable.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
    refusal = _refusal(durable.conninfo().replace("user=architex", "user=guest"))
    assert refusal.code == "A029"


def test_too_few_connections_are_refused(durable: EmbeddedPostgres) -> None:
    refusal = _refusal(durable.conninfo(), connections_wanted=1000)
    assert refusal.code == "A02A"
    assert "max_connections" in refusal.mend


def test_unreachable_database_is_refused() -> None:
    refusal = _refusal("postgresql://nobody@127.0.0.1:1/none")
    assert refusal.code == "A020"
