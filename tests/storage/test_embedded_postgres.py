"""The embedded PostgreSQL is private, shared by commands, and outlives any kill."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from architex.storage import embedded_postgres
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.start_refusal import StartRefused
from tests.directories import make_directory
from tests.waiting import eventually

# Starts a cluster, says so, and waits to be killed.
_HOLDER = """
import sys, time
from pathlib import Path
from architex.storage import embedded_postgres
from architex.storage.embedded_postgres import EmbeddedPostgres
cluster = EmbeddedPostgres(Path(sys.argv[1]))
cluster.ensure_running()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def pristine() -> Iterator[Path]:
    """A data directory with a cluster that was made, stopped, and is copied by the tests."""
    directory = make_directory()
    cluster = EmbeddedPostgres(directory / "postgres")
    cluster.ensure_running()
    cluster.stop()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def directory(pristine: Path) -> Iterator[Path]:
    copy = make_directory()
    subprocess.run(["cp", "-a", f"{pristine}/.", str(copy)], check=True)  # noqa: S607 - cp keeps owners
    yield copy / "postgres"
    shutil.rmtree(copy)


def _ask(cluster: EmbeddedPostgres, sql: str) -> object:
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        row = connection.execute(sql.encode()).fetchone()
        return row and row[0]


def _postmaster_pid(directory: Path) -> int:
    return int((directory / "cluster" / "postmaster.pid").read_text().split("\n")[0])


def _is_free(directory: Path) -> bool:
    """Whether no process of the cluster is left."""
    lock = EmbeddedPostgres(directory)._try_lock()
    if lock is None:
        return False
    os.close(lock)
    return True


def test_cluster_keeps_our_promises(directory: Path) -> None:
    cluster = EmbeddedPostgres(directory)
    with cluster.running():
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert _ask(cluster, f"SELECT current_setting('{setting}')") == "on"
        assert _ask(cluster, "SELECT current_setting('server_encoding')") == "UTF8"
        assert (
            _ask(
                cluster,
                "SELECT datcollate FROM pg_database WHERE datname = current_database()",
            )
            == "C"
        )


def test_only_its_owner_can_reach_it(directory: Path) -> None:
    cluster = EmbeddedPostgres(directory)
    with cluster.running():
        assert stat.S_IMODE(cluster.socket_directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert _ask(cluster, "SELECT current_setting('listen_addresses')") == ""


def test_data_outlives_a_stop(directory: Path) -> None:
    cluster = EmbeddedPostgres(directory)
    with cluster.running(), psycopg.connect(cluster.conninfo()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with cluster.running():
        assert _ask(cluster, "SELECT answer FROM kept") == 42


def test_data_outlives_kill_9_and_a_stale_pid_file(directory: Path) -> None:
    cluster = EmbeddedPostgres(directory)
    cluster.ensure_running()
    with psycopg.connect(cluster.conninfo()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(_postmaster_pid(directory), signal.SIGKILL)
    eventually(lambda: not cluster.started_here, "the kill is not seen")
    cluster.ensure_running()
    assert _ask(cluster, "SELECT answer FROM kept") == 42
    cluster.stop()


def test_pid_file_with_the_number_of_a_stranger_is_no_hindrance(directory: Path) -> None:
    pid_file = directory / "cluster" / "postmaster.pid"
    pid_file.write_text(f"{os.getppid()}\n{directory}\n0\n5432\n\n\n\nready\n")
    cluster = EmbeddedPostgres(directory)
    with cluster.running():
        assert _ask(cluster, "SELECT 1") == 1


def test_killed_cluster_that_nobody_has_buried_is_no_hindrance(directory: Path) -> None:
    killed = EmbeddedPostgres(directory)
    killed.ensure_running()
    pid = _postmaster_pid(directory)
    socket_lock = killed.socket_directory / ".s.PGSQL.5432.lock"
    os.kill(pid, signal.SIGKILL)  # a child of ours, whose number is kept until we ask for it
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z", "it does not die")
    assert int(socket_lock.read_text().split()[0]) == pid
    cluster = EmbeddedPostgres(directory)
    with cluster.running():
        assert _ask(cluster, "SELECT 1") == 1
    killed.stop()


def test_second_command_uses_the_running_cluster_and_leaves_it(directory: Path) -> None:
    first, second = EmbeddedPostgres(directory), EmbeddedPostgres(directory)
    with first.running():
        pid = _postmaster_pid(directory)
        with second.running():
            assert not second.started_here
            assert _ask(second, "SELECT 1") == 1
        assert _postmaster_pid(directory) == pid
        assert _ask(first, "SELECT 1") == 1


def test_cluster_dies_with_a_killed_parent_and_the_next_one_takes_over(directory: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(directory)], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"ready\n"
    holder.kill()
    holder.wait()
    # At once, without waiting for the old one to be gone.
    cluster = EmbeddedPostgres(directory)
    with cluster.running():
        assert _ask(cluster, "SELECT 1") == 1
    eventually(lambda: _is_free(directory), "a process of the cluster is left")


def test_many_starting_at_once_agree_on_one(directory: Path) -> None:
    holders = [
        subprocess.Popen([sys.executable, "-c", _HOLDER, str(directory)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for holder in holders:
        assert holder.stdout is not None
        with holder.stdout:
            assert holder.stdout.readline() == b"ready\n"
    assert _ask(EmbeddedPostgres(directory), "SELECT 1") == 1
    for holder in holders:
        holder.kill()
        holder.wait()
    eventually(lambda: _is_free(directory), "a process of the cluster is left")


def test_interrupted_creation_is_begun_again(tmp_path: Path) -> None:
    base = make_directory()
    try:
        (base / "postgres" / "cluster.new").mkdir(parents=True)
        (base / "postgres" / "cluster.new" / "PG_VERSION").write_text("18")
        cluster = EmbeddedPostgres(base / "postgres", options={"fsync": "off"})
        with cluster.running():
            assert _ask(cluster, "SELECT 1") == 1
    finally:
        shutil.rmtree(base)


def test_directory_that_is_too_deep_for_a_socket_gets_a_short_one(pristine: Path) -> None:
    base = make_directory()
    deep = base / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{pristine}/.", str(deep)], check=True)  # noqa: S607 - as above
    cluster = EmbeddedPostgres(deep / "postgres")
    try:
        with cluster.running():
            assert _ask(cluster, "SELECT 1") == 1
            assert stat.S_IMODE(cluster.socket_directory.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(base)
        shutil.rmtree(cluster.socket_directory, ignore_errors=True)


def test_data_of_an_unknown_postgresql_is_refused(directory: Path) -> None:
    (directory / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StartRefused) as refused:
        EmbeddedPostgres(directory).ensure_running()
    assert refused.value.code == "A012"


def test_cluster_that_does_not_start_says_why(directory: Path) -> None:
    cluster = EmbeddedPostgres(directory, options={"shared_buffers": "nonsense"})
    with pytest.raises(StartRefused) as refused:
        cluster.ensure_running()
    assert refused.value.code == "A013"
    assert "shared_buffers" in refused.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
def test_root_can_run_it_below_a_directory_closed_to_others(pristine: Path) -> None:
    base = make_directory()
    base.chmod(0o700)
    subprocess.run(["cp", "-a", f"{pristine}/.", str(base)], check=True)  # noqa: S607 - as above
    base.chmod(0o700)
    cluster = EmbeddedPostgres(base / "postgres")
    try:
        with cluster.running():
            assert _ask(cluster, "SELECT 1") == 1
            owner = Path(f"/proc/{_postmaster_pid(base / 'postgres')}").stat().st_uid
            assert owner != 0
    finally:
        shutil.rmtree(base)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
def test_root_can_run_programs_below_a_directory_closed_to_others(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = embedded_postgres._newest_binaries()
    package = newest.directory.parent.parent  # its libraries are beside it, found relatively
    base = make_directory()
    base.chmod(0o700)
    try:
        for part in (package, package.with_name(package.name + ".libs")):
            subprocess.run(["cp", "-a", str(part), str(base)], check=True)  # noqa: S607 - as above
        closed = dataclasses.replace(
            newest, directory=base / package.name / newest.directory.relative_to(package)
        )
        monkeypatch.setattr(embedded_postgres, "_all_binaries", lambda: (closed,))
        shutil.rmtree(directory / "cluster")  # so that initdb runs too
        cluster = EmbeddedPostgres(directory, options={"fsync": "off"})
        with cluster.running():
            assert _ask(cluster, "SELECT 1") == 1
    finally:
        shutil.rmtree(base)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
def test_closed_directory_is_explained_where_nothing_can_be_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded_postgres, "find_search_capability", lambda: None)
    base = make_directory()
    base.chmod(0o700)
    try:
        with pytest.raises(StartRefused) as refused:
            EmbeddedPostgres(base / "postgres").ensure_running()
    finally:
        shutil.rmtree(base)
    assert refused.value.code == "A011"
    assert f"chmod o+x {base}" in refused.value.mend
