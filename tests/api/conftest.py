"""Fixtures for tests through the whole application: a server, and users on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from architex.settings import RateLimitSettings
from tests.api.client import Server, User, settings_for, start_server, stop_server
from tests.federation.visitors import World


@pytest.fixture(scope="module")
def server(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server shared by the tests of one file; each test makes users of its own."""
    directory: Path = tmp_path_factory.mktemp("server")
    settings = settings_for(directory, rate_limits=RateLimitSettings(enabled=False))
    started = start_server(module_database_url, settings)
    yield started
    stop_server(started)


@pytest.fixture(scope="module")
def world(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that others can reach, shared by the tests of one file."""
    started = World(
        module_database_url,
        tmp_path_factory.mktemp("server"),
        rate_limits=RateLimitSettings(enabled=False),
    )
    yield started
    stop_server(started.server)


@pytest.fixture
def alice(server: Server) -> User:
    """A new user."""
    return server.register()


@pytest.fixture
def bob(server: Server) -> User:
    """Another new user."""
    return server.register()
