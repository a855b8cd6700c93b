"""TCP ports of the loopback address, each given to one server only as long as the tests run.

What we remember of others, we remember by name and port: previews of pages, keys, who is away.
A test whose peer got the port of an earlier test's peer would be told what was known of that one.
"""

from __future__ import annotations

import itertools
import os
import socket

# Below the ports that Linux gives to outgoing connections, which could take one of ours between
# its choice and the start of its server. Each process begins elsewhere: several may run tests.
_FIRST, _LAST = 20_000, 32_000
_start = _FIRST + os.getpid() % (_LAST - _FIRST)
_untried = itertools.chain(range(_start, _LAST), range(_FIRST, _start))
_listened: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, for a server that another process starts."""
    for port in _untried:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("Every port was given once: widen the range in tests/ports.py.")


def listen() -> socket.socket:
    """A socket that listens on a port where no server of these tests listened before."""
    passed_over = []
    while True:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if port not in _listened:
            break
        # Kept open until there is a new one, or the same could come again.
        passed_over.append(listener)
    for one in passed_over:
        one.close()
    _listened.add(port)
    return listener
