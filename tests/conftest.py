"""Fixtures for all tests: one embedded PostgreSQL per session, a fresh database per test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from architex.bootstrap import Core
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.migrations import migrate
from architex.storage.pool import Database
from tests.core import make_core
from tests.databases import DatabaseSupply
from tests.directories import make_directory

# Tests assert no times: how long it takes to make up a value depends on who else is working here.
settings.register_profile(
    "architex", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("architex")

_TEMPLATE = "architex_template"


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
def _migrated(postgres: EmbeddedPostgres, admin: psycopg.Connection) -> Iterator[DatabaseSupply]:
    admin.execute(f"CREATE DATABASE {_TEMPLATE}")
    migrate(postgres.conninfo(_TEMPLATE))
    with closing(DatabaseSupply(postgres.conninfo("postgres"), _TEMPLATE)) as supply:
        yield supply


@pytest.fixture(scope="session")
def _empty(postgres: EmbeddedPostgres) -> Iterator[DatabaseSupply]:
    with closing(DatabaseSupply(postgres.conninfo("postgres"), "template0")) as supply:
        yield supply


DatabaseFactory = Callable[[], str]


@contextmanager
def _factory(postgres: EmbeddedPostgres, supply: DatabaseSupply) -> Iterator[DatabaseFactory]:
    with ExitStack() as stack:

        def make() -> str:
            name = supply.take()
            stack.callback(supply.give_back, name)
            return postgres.conninfo(name)

        yield make


@pytest.fixture
def make_database(
    postgres: EmbeddedPostgres, _migrated: DatabaseSupply
) -> Iterator[DatabaseFactory]:
    """Make further migrated databases (one per server of a federation test); gives conninfos."""
    with _factory(postgres, _migrated) as make:
        yield make


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres, _empty: DatabaseSupply) -> Iterator[str]:
    """The conninfo of a database without any table, for this test alone."""
    with _factory(postgres, _empty) as make:
        yield make()


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
def module_database_url(postgres: EmbeddedPostgres, _migrated: DatabaseSupply) -> Iterator[str]:
    """The conninfo of a migrated database shared by the tests of one file."""
    with _factory(postgres, _migrated) as make:
        yield make()


@pytest.fixture(scope="module")
def module_database(module_database_url: str) -> Iterator[Database]:
    """A pool on a migrated database shared by the tests of one file."""
    pool = Database(module_database_url, max_size=16)
    yield pool
    pool.close()
