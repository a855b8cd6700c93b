"""What one request costs our process: CPU of Python and statements sent to PostgreSQL.

    python bench/micro/requests.py [--profile NAME]

Requests go straight into the WSGI application, without sockets, one after the other, so what is
shown is the least that a request costs; PostgreSQL's own CPU is not in it. With --profile, the
functions that take the most time in one kind of request.
"""

from __future__ import annotations

import cProfile
import itertools
import pstats
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from architex.bootstrap import build_core
from architex.bootstrap.web import build_app
from architex.settings import RateLimitSettings, RegistrationSettings, Settings
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.migrations import migrate
from tests.api.client import Server, User
from tests.api.raw_requests import call

REPEAT = 300
MEMBERS = 20


@contextmanager
def running_server() -> Iterator[Server]:
    """A server in this process, over a PostgreSQL of its own."""
    directory = Path(tempfile.mkdtemp(prefix="architex-micro-"))
    directory.chmod(0o711)
    cluster = EmbeddedPostgres(directory / "postgres", max_connections=50)
    try:
        cluster.ensure_running()
        migrate(cluster.conninfo())
        settings = Settings(
            server_name="bench.example",
            public_base_url="http://127.0.0.1:8008/",
            data_dir=directory,
            signing_key_path=directory / "id_ed25519",
            registration=RegistrationSettings(enabled=True, weak_password_hashing=True),
            rate_limits=RateLimitSettings(enabled=False),
        )
        core = build_core(settings, conninfo=cluster.conninfo())
        yield Server(build_app(settings, core), core)
        core.close()
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


def requests_of(server: Server) -> dict[str, Callable[[], int]]:
    """What is measured: each sends one request and gives the status."""
    users = [server.register() for _ in range(MEMBERS)]
    alice = users[0]
    room_id = alice.create_room(preset="public_chat")
    room = quote(room_id, safe="")
    for user in users[1:]:
        user.post(f"/rooms/{room}/join").ok()
    for number in range(100):
        alice.put(f"/rooms/{room}/send/m.room.message/{number}", {"body": "x"}).ok()
    since = alice.get("/sync", timeout=0).ok()["next_batch"]
    numbers = itertools.count(1000)
    text = b'{"msgtype": "m.text", "body": "Hello, how are you today?"}'

    def ask(user: User, method: str, path: str, body: bytes = b"") -> int:
        target = f"/_matrix/client/v3{path}"
        return call(server.app, method, target, body, token=user.token).status

    return {
        "versions": lambda: call(server.app, "GET", "/_matrix/client/versions").status,
        "whoami": lambda: ask(alice, "GET", "/account/whoami"),
        "sync, nothing new": lambda: ask(alice, "GET", f"/sync?timeout=0&since={since}"),
        "sync from nothing": lambda: ask(alice, "GET", "/sync?timeout=0"),
        "messages, 100": lambda: ask(alice, "GET", f"/rooms/{room}/messages?dir=b&limit=100"),
        "members": lambda: ask(alice, "GET", f"/rooms/{room}/members"),
        # Last: it makes something new.
        "send": lambda: ask(
            alice, "PUT", f"/rooms/{room}/send/m.room.message/{next(numbers)}", text
        ),
    }


def main() -> None:
    """Print the figures, or a profile."""
    wanted = sys.argv[2] if sys.argv[1:2] == ["--profile"] else None
    with running_server() as server:
        print(f"{'request':20} {'CPU µs':>8} {'wall µs':>8}")
        for name, send in requests_of(server).items():
            if wanted not in (None, name):
                continue
            for _ in range(20):
                status = send()
                if status != 200:
                    raise SystemExit(f"{name} is answered with {status}")
            profile = cProfile.Profile()
            if wanted is not None:
                profile.enable()
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(REPEAT):
                send()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            profile.disable()
            print(f"{name:20} {cpu / REPEAT * 1e6:8.0f} {wall / REPEAT * 1e6:8.0f}")
            if wanted is not None:
                pstats.Stats(profile).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    main()
