"""Runs the real `architex serve` for tests over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.directories import make_directory
from tests.ports import free_port

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


class RunningServer:
    """One `architex serve` and everything it started.

    Attributes:
        url: of its first listener, without a slash at the end.
        pid: of the supervisor.
        config_file: give it to other commands.
        data_dir: the embedded PostgreSQL, keys and media.
    """

    def __init__(
        self,
        config_file: Path,
        url: str,
        data_dir: Path,
        ca_file: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.config_file = config_file
        self.url = url
        self.data_dir = data_dir
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
        self._environment = environment or {}
        self.log_file = config_file.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Of the supervisor; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def log(self) -> str:
        """What it wrote so far."""
        return self.log_file.read_text(errors="replace")

    def start(self) -> None:
        """Start it (again) on the same data; returns when it serves."""
        if self._process is not None:
            self._process.wait(_STOP_TIMEOUT_S)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ARCHITEX_")}
        environment |= self._environment
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "architex", "serve", "--config", str(self.config_file)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.wait_until_healthy()

    def wait_until_healthy(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Return when GET /health answers 200; AssertionError with the log otherwise."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.exit_status is None, f"the server ended: {self.log()[-3000:]}"
            if self.is_healthy():
                return
            time.sleep(0.05)
        raise AssertionError(f"the server does not get healthy: {self.log()[-3000:]}")

    def is_healthy(self) -> bool:
        """Whether GET /health answers 200."""
        try:
            return self.request("GET", "/health")[0] == 200
        except OSError:
            return False

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
    ) -> tuple[int, Any]:
        """One request; gives the status and the body, parsed if it is JSON.

        Raises OSError when there is no whole answer.
        """
        status, headers, content = send_request(
            method, self.url + path, body, token=token, timeout_s=timeout_s, tls=self._tls
        )
        return status, _parsed(headers, content)

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all its descendants, PostgreSQL's included."""
        try:
            supervisor = psutil.Process(self.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def find(self, word: str) -> list[psutil.Process]:
        """Its processes with a word in their command line, parents first."""
        return [process for process in self.processes() if word in _command_line(process)]

    @property
    def postmaster(self) -> psutil.Process:
        """The parent of PostgreSQL's processes."""
        return self.find("-D")[0]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; gives the exit status. Nothing of it is left after."""
        started = self.processes()
        assert self._process is not None
        self._process.send_signal(number)
        try:
            status = self._process.wait(_STOP_TIMEOUT_S)
        finally:
            _kill(started)
        return status

    def kill9(self) -> None:
        """Kill every process of it at once, PostgreSQL's too, as a power failure would."""
        started = self.processes()
        for process in started:
            # Stopped first, so that none of them sees another die and acts on it.
            _signal(process, signal.SIGSTOP)
        _kill(started)
        assert self._process is not None
        self._process.wait(_STOP_TIMEOUT_S)

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.data_dir, ignore_errors=True)


def start_server(
    tmp_path: Path,
    *,
    web_workers: int = 1,
    ca_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    **config: Any,
) -> RunningServer:
    """Start `architex serve` on free ports with data of its own; use it in a `with`.

    Args:
        tmp_path: where its configuration and log go.
        web_workers: how many.
        ca_file: whom to trust when the first listener speaks TLS.
        environment: further environment variables.
        config: further settings: `server_name="a.example"`, `registration={"enabled": True}`…
    """
    data_dir = make_directory()
    port = free_port()
    settings: dict[str, Any] = {
        "data_dir": str(data_dir),
        "listeners": [{"host": "127.0.0.1", "port": port}],
        "registration": {"enabled": True, "weak_password_hashing": True},
        "rate_limits": {"enabled": False},
        **config,
    }
    settings["processes"] = {"web_workers": web_workers, **settings.get("processes", {})}
    config_file = tmp_path / f"architex-{port}.toml"
    config_file.write_text(_toml(settings))
    listener = settings["listeners"][0]
    scheme = "https" if "tls_certificate" in listener else "http"
    server = RunningServer(
        config_file,
        f"{scheme}://127.0.0.1:{listener['port']}",
        data_dir,
        ca_file,
        environment,
    )
    try:
        server.start()
    except BaseException:
        server.__exit__(None, None, None)
        raise
    return server


def send_request(
    method: str,
    url: str,
    body: Any,
    *,
    token: str | None,
    timeout_s: float,
    tls: ssl.SSLContext | None,
) -> tuple[int, Message, bytes]:
    """One request; gives the status, the headers and the body. Raises OSError for no answer.

    Args:
        body: is sent as JSON; None for none.
    """
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - our own URL
        url, data=data, headers=headers, method=method
    )
    try:
        with urllib.request.urlopen(  # noqa: S310 - as above
            request, timeout=timeout_s, context=tls
        ) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def _parsed(headers: Message, body: bytes) -> Any:
    if headers.get("Content-Type", "").startswith("application/json"):
        return json.loads(body)
    return body.decode()


def _toml(settings: Mapping[str, Any]) -> str:
    plain = {k: v for k, v in settings.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in settings.items() if isinstance(v, dict)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in plain.items()]
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        if process.is_running():
            _signal(process, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=_STOP_TIMEOUT_S)
