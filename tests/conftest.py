"""Fixtures for all tests: one embedded PostgreSQL per session, a fresh database per test."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from architex.bootstrap import Core
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.migrations import migrate
from architex.storage.pool import Database
from tests.core import make_core
from tests.directories import make_directory

# Tests assert no times: how long it takes to make up a value depends on who else is working here.
settings.register_profile(
    "architex", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("architex")

_TEMPLATE = "architex_template"
_names = (f"test_{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL cluster for this session. Not durable: no test pulls its power."""
    directory = make_directory()
    cluster = EmbeddedPostgres(
        directory / "postgres",
        max_connections=200,
        options={"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"},
    )
    try:
        cluster.ensure_running()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def admin(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A connection that creates and drops databases."""
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def _template(postgres: EmbeddedPostgres, admin: psycopg.Connection) -> str:
    admin.execute(f"CREATE DATABASE {_TEMPLATE}")
    migrate(postgres.conninfo(_TEMPLATE))
    return _TEMPLATE


DatabaseFactory = Callable[[], str]


def _make_databases(
    postgres: EmbeddedPostgres, admin: psycopg.Connection, stack: ExitStack, template: str
) -> DatabaseFactory:
    def make() -> str:
        name = next(_names)
        # Copying files is quicker than logging them: nobody writes to the template.
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        stack.callback(admin.execute, f"DROP DATABASE {name} WITH (FORCE)".encode())
        return postgres.conninfo(name)

    return make


@pytest.fixture
def make_database(
    postgres: EmbeddedPostgres, admin: psycopg.Connection, _template: str
) -> Iterator[DatabaseFactory]:
    """Make further migrated databases (one per server of a federation test); gives conninfos."""
    with ExitStack() as stack:
        yield _make_databases(postgres, admin, stack, _template)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres, admin: psycopg.Connection) -> Iterator[str]:
    """The conninfo of a database without any table, for this test alone."""
    with ExitStack() as stack:
        yield _make_databases(postgres, admin, stack, "template0")()


@pytest.fixture
def database_url(make_database: DatabaseFactory) -> str:
    """The conninfo of a migrated, empty database for this test alone."""
    return make_database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A pool on a migrated, empty database for this test alone."""
    pool = Database(database_url, max_size=16)
    yield pool
    pool.close()


@pytest.fixture
def core(database: Database) -> Iterator[Core]:
    """The log and the commit queue of a server, over a database for this test alone."""
    core = make_core(database)
    yield core
    core.close()


@pytest.fixture(scope="module")
def module_database_url(
    postgres: EmbeddedPostgres, admin: psycopg.Connection, _template: str
) -> Iterator[str]:
    """The conninfo of a migrated database shared by the tests of one file."""
    with ExitStack() as stack:
        yield _make_databases(postgres, admin, stack, _template)()


@pytest.fixture(scope="module")
def module_database(module_database_url: str) -> Iterator[Database]:
    """A pool on a migrated database shared by the tests of one file."""
    pool = Database(module_database_url, max_size=16)
    yield pool
    pool.close()
