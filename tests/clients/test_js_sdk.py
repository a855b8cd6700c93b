"""matrix-js-sdk with its Rust crypto: cross-signing, backup, a new device; on one and two servers.

It needs `npm install --prefix tests/clients/js` once, which also gets the right Node.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.federation.authority import Authority
from tests.federation.homeserver import architex
from tests.server import start_server

DIRECTORY: Final = Path(__file__).parent / "js"
NODE: Final = DIRECTORY / "node_modules" / "node" / "bin" / "node"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NODE.exists(), reason="npm install --prefix tests/clients/js"),
]


def converse(alice_url: str, bob_url: str, ca_file: Path | None = None) -> None:
    """Let the script run; fails with what it said."""
    environment = dict(os.environ)
    if ca_file is not None:
        environment["NODE_EXTRA_CA_CERTS"] = str(ca_file)
    done = subprocess.run(
        [str(NODE), str(DIRECTORY / "encryption.mjs"), alice_url, bob_url],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.endswith("ALL OK\n")


def test_people_on_one_server_read_everything_on_new_devices_too(tmp_path: Path) -> None:
    with start_server(tmp_path, web_workers=2) as server:
        converse(server.url, server.url)


def test_people_on_two_servers_read_everything_on_new_devices_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        architex(tmp_path, authority, web_workers=1) as one,
        architex(tmp_path, authority, web_workers=1) as other,
    ):
        converse(one.url, other.url, authority.ca_file)
