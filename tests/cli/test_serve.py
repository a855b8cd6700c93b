"""`architex serve` runs everything, keeps it running, and stops all of it in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.certificates import write_certificate
from tests.ports import free_port
from tests.server import RunningServer, start_server
from tests.waiting import eventually


@pytest.fixture(scope="module")
def long_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("serve"), web_workers=2) as server:
        yield server


@pytest.fixture
def server(long_lived: RunningServer) -> RunningServer:
    """A running server; whatever the test before did to it."""
    if long_lived.exit_status is not None:
        long_lived.start()
    eventually(
        # The followers come last: the server answers before.
        lambda: (
            len(long_lived.find("gunicorn")) == 3
            and long_lived.find("follow")
            and long_lived.is_healthy()
        ),
        "both workers and the followers are not there",
    )
    return long_lived


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "architex", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_every_process_with_status_0(
    server: RunningServer, number: signal.Signals
) -> None:
    processes = server.processes()
    assert len(processes) >= 6  # supervisor, gunicorn, 2 workers, followers, PostgreSQL
    os.kill(server.pid, number)
    # In 5 seconds, the promise says; the supervisor itself enforces it, by killing.
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []
    assert server.stop() == 0
    assert "killed" not in server.log()


def test_everything_dies_with_a_killed_supervisor(server: RunningServer) -> None:
    processes = server.processes()
    os.kill(server.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []
    server.start()  # at once, on the same data
    assert server.is_healthy()


def test_server_starts_again_after_everything_was_killed(server: RunningServer) -> None:
    server.kill9()
    server.start()
    assert server.is_healthy()


def test_killed_postgresql_is_started_again(server: RunningServer) -> None:
    old = server.postmaster
    old.kill()
    eventually(lambda: not old.is_running(), "it does not die")
    eventually(server.is_healthy, "the server does not recover")
    assert server.postmaster.pid != old.pid


@pytest.mark.parametrize("word", ["gunicorn", "follow"])
def test_killed_process_is_started_again(server: RunningServer, word: str) -> None:
    # The first is gunicorn's master, the parent of the workers.
    old = server.find(word)[0]
    old.kill()
    eventually(lambda: any(p.pid != old.pid for p in server.find(word)[:1]), "there is no other")
    eventually(server.is_healthy, "the server is not healthy")


def test_web_process_killed_while_it_starts_is_started_again(server: RunningServer) -> None:
    server.stop()
    starting = threading.Thread(target=server.start)
    starting.start()
    eventually(lambda: server.find("gunicorn"), "the web process does not start")
    server.find("gunicorn")[0].kill()
    starting.join()
    assert server.is_healthy()


def test_killed_worker_is_replaced(server: RunningServer) -> None:
    master, worker, _ = server.find("gunicorn")
    worker.kill()
    eventually(
        lambda: (
            len(server.find("gunicorn")) == 3
            and worker.pid not in [p.pid for p in server.find("gunicorn")]
        ),
        "there are no two workers again",
    )
    assert master.is_running()


def test_hangup_signal_brings_fresh_workers_without_a_gap(server: RunningServer) -> None:
    master, *old = server.find("gunicorn")
    os.kill(server.pid, signal.SIGHUP)
    pids = {worker.pid for worker in old}
    while any(worker.is_running() for worker in old):
        assert server.is_healthy()
    eventually(
        lambda: len([p for p in server.find("gunicorn") if p.pid not in pids]) == 3,
        "there are no two new workers",
    )
    assert master.is_running()


def test_page_at_the_root_shows_that_it_runs(server: RunningServer) -> None:
    status, page = server.request("GET", "/")
    assert status == 200
    assert "Architex" in page
    assert "localhost" in page


def test_commands_use_the_database_of_the_running_server(server: RunningServer) -> None:
    pid = server.postmaster.pid
    done = _run("database", "check", "--config", str(server.config_file))
    assert done.returncode == 0, done.stderr
    assert server.postmaster.pid == pid


def test_commands_start_the_database_when_nothing_runs(server: RunningServer) -> None:
    server.stop()
    done = _run("database", "migrate", "--config", str(server.config_file))
    assert done.returncode == 0, done.stderr


def test_server_takes_over_the_database_from_a_command(server: RunningServer) -> None:
    server.stop()
    command = subprocess.Popen(
        [sys.executable, "-m", "architex", "database", "run", "-c", str(server.config_file)],
        stdout=subprocess.PIPE,
    )
    assert command.stdout is not None
    with command.stdout:
        assert command.stdout.readline().startswith(b"ready")
    server.start()
    command.terminate()
    assert command.wait(20) == 0
    eventually(lambda: server.find("-D"), "it has none of its own")
    eventually(server.is_healthy, "the server is not healthy")


def test_waiting_sync_is_answered_when_the_server_stops(server: RunningServer) -> None:
    registration = {"auth": {"type": "m.login.dummy"}, "password": "correct horse battery"}
    status, user = server.request("POST", "/_matrix/client/v3/register", registration)
    assert status == 200, user
    token = user["access_token"]
    _, first = server.request("GET", "/_matrix/client/v3/sync", token=token)
    waiting = f"/_matrix/client/v3/sync?timeout=60000&since={first['next_batch']}"
    answers: list[int] = []
    clients = [
        threading.Thread(
            target=lambda: answers.append(server.request("GET", waiting, token=token)[0])
        )
        for _ in range(8)
    ]
    for client in clients:
        client.start()
    time.sleep(0.5)  # for all to arrive; one that does not is refused, and missing below
    assert server.stop() == 0
    for client in clients:
        client.join()
    assert answers == [200] * 8
    assert "killed" not in server.log()


def test_tls_and_plain_listeners_serve_together(tmp_path: Path) -> None:
    write_certificate(tmp_path, "test")
    tls, plain = free_port(), free_port()
    listeners = [
        {
            "host": "127.0.0.1",
            "port": tls,
            "tls_certificate": tmp_path / "tls.crt",
            "tls_key": tmp_path / "tls.key",
        },
        {"host": "127.0.0.1", "port": plain},
    ]
    with start_server(tmp_path, listeners=listeners, ca_file=tmp_path / "tls.crt") as server:
        assert server.url == f"https://127.0.0.1:{tls}"
        assert server.request("GET", "/_matrix/client/versions")[0] == 200
        server.url = f"http://127.0.0.1:{plain}"
        assert server.request("GET", "/_matrix/client/versions")[0] == 200


def test_port_in_use_is_refused_with_the_command_that_shows_by_whom(
    server: RunningServer, tmp_path: Path
) -> None:
    port = server.url.rsplit(":", 1)[1]
    config = tmp_path / "second.toml"
    config.write_text(f'data_dir = "second"\n[[listeners]]\nport = {port}\n')
    done = _run("serve", "--config", str(config))
    assert done.returncode == 1
    assert "A040" in done.stderr
    assert f"ss -ltnp 'sport = :{port}'" in done.stderr


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("server_nam = 'x'", "A003"),
        ("server_name = 1", "A004"),
        ("= nonsense", "A002"),
        ("database_url = 'postgresql://nobody@127.0.0.1:1/none'", "A020"),
        ("signing_key_path = '/dev/null'", "A030"),
        (
            "[[listeners]]\nport = {port}\ntls_certificate = '/dev/null'\ntls_key = '/dev/null'",
            "A041",
        ),
    ],
)
def test_refused_start_says_code_and_mend(tmp_path: Path, text: str, code: str) -> None:
    config = tmp_path / "architex.toml"
    port = free_port()
    listener = "" if "listeners" in text else f"\n[[listeners]]\nport = {port}"
    config.write_text(text.replace("{port}", str(port)) + listener)
    done = _run("serve", "--config", str(config), ARCHITEX_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"architex: {code}: " in done.stderr
    assert "To mend it: " in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_gunicorn_runs_alone(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "architex.toml"
    config.write_text(f"[[listeners]]\nport = {port}\n[processes]\nweb_workers = 1\n")
    checkout = Path(__file__).parent.parent.parent
    gunicorn = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "architex.wsgi"],
        cwd=checkout,
        env={**os.environ, "ARCHITEX_CONFIG": str(config)},
    )
    server = RunningServer(config, f"http://127.0.0.1:{port}", tmp_path / "data")
    try:
        eventually(server.is_healthy, "gunicorn does not serve")
        processes = psutil.Process(gunicorn.pid).children(recursive=True)
        gunicorn.terminate()
        assert gunicorn.wait(20) == 0
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert alive == []
    finally:
        gunicorn.kill()
        gunicorn.wait()
