"""Requests whose every byte the test chooses: through WSGI, and over a socket."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from architex.api.middleware import WsgiApp


@dataclass(frozen=True)
class RawAnswer:
    """What came back."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        """The body, parsed; None when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def outcome(self) -> tuple[int, str | None]:
        """The status and the Matrix error code."""
        parsed = self.json
        return self.status, parsed.get("errcode") if isinstance(parsed, dict) else None


def call(
    app: WsgiApp,
    method: str,
    target: str,
    body: bytes = b"",
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    chunked: bool = False,
) -> RawAnswer:
    """One request to a WSGI application, with the target exactly as given.

    Args:
        target: path and query, in ASCII.
        chunked: announce no length.
    """
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "RAW_URI": target,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "SCRIPT_NAME": "",
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8008",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "CONTENT_TYPE": "application/json",
    }
    if chunked:
        environ["HTTP_TRANSFER_ENCODING"] = "chunked"
        environ["wsgi.input_terminated"] = True
    elif body or method in ("POST", "PUT"):
        environ["CONTENT_LENGTH"] = str(len(body))
    if token is not None:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    for name, value in (headers or {}).items():
        key = name.upper().replace("-", "_")
        in_cgi = key in ("CONTENT_TYPE", "CONTENT_LENGTH")
        environ[key if in_cgi else f"HTTP_{key}"] = value
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, fields: list[tuple[str, str]], _error: Any = None) -> None:
        started.append((status, fields))

    chunks: Iterable[bytes] = app(environ, start_response)
    try:
        answered = b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    status, fields = started[-1]
    named = {name.lower(): value for name, value in fields}
    return RawAnswer(int(status.split(" ", 1)[0]), answered, named)


def exchange(url: str, sent: bytes, *, timeout_s: float = 20.0) -> bytes:
    """What a server answers on a fresh connection to these bytes; ends with the connection.

    Sends `Connection: close` nowhere: put it into `sent`.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        # It may answer and close before it has read everything.
        with contextlib.suppress(OSError):
            connection.sendall(sent)
        parts = []
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65_536):
                parts.append(part)
    return b"".join(parts)
