"""A WSGI application for the tests of the gunicorn worker: waits, reads, or does not read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from architex.api.shutdown import stopping


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Answer /park when the worker stops, /read with the body's length, /raw with the raw path."""
    path = environ["PATH_INFO"]
    answer = "hello"
    if path == "/park":
        woken = threading.Event()
        stopping.call_on_stop(woken.set)
        woken.wait(20)
        answer = f"stopping: {stopping.is_set()}"
    elif path == "/read":
        length = 0
        while part := environ["wsgi.input"].read(65_536):
            length += len(part)
        answer = str(length)
    elif path.startswith("/raw"):
        answer = environ["RAW_URI"]
    elif path == "/scheme":
        answer = environ["wsgi.url_scheme"]
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("X-Pid", str(threading.get_ident()))]
    )
    return [answer.encode()]
