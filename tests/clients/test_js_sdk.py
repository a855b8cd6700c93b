"""matrix-js-sdk with its Rust crypto: several devices, emoji, backups, new and dehydrated devices.

On one server with two workers, on two servers, and on one of ours and Synapse. It needs
`npm install --prefix tests/clients/js` once, which also gets the right Node.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.federation.authority import Authority
from tests.federation.homeserver import architex
from tests.federation.synapse import is_installed, synapse
from tests.server import start_server

DIRECTORY: Final = Path(__file__).parent / "js"
NODE: Final = DIRECTORY / "node_modules" / "node" / "bin" / "node"
TIMEOUT_S: Final = 400

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not NODE.exists(), reason="matrix-js-sdk needs: npm install --prefix tests/clients/js"
    ),
]


def run_script(name: str, *urls: str, ca_file: Path | None = None) -> None:
    """Let a script run; fails with what it said."""
    environment = dict(os.environ)
    if ca_file is not None:
        environment["NODE_EXTRA_CA_CERTS"] = str(ca_file)
    done = subprocess.run(
        [str(NODE), str(DIRECTORY / name), *urls],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.endswith("ALL OK\n")


def test_people_on_one_server_read_everything_on_all_devices(tmp_path: Path) -> None:
    with start_server(tmp_path, web_workers=2) as server:
        run_script("encryption.mjs", server.url, server.url)


def test_people_on_two_servers_read_everything_on_all_devices(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        architex(tmp_path, authority, web_workers=1) as one,
        architex(tmp_path, authority, web_workers=1) as other,
    ):
        run_script("encryption.mjs", one.url, other.url, ca_file=authority.ca_file)


def test_next_device_reads_what_a_dehydrated_one_received(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        architex(tmp_path, authority, web_workers=2) as one,
        architex(tmp_path, authority, web_workers=1) as other,
    ):
        run_script("dehydration.mjs", one.url, other.url, ca_file=authority.ca_file)


@pytest.mark.skipif(not is_installed(), reason="matrix-synapse is not installed")
@pytest.mark.parametrize("is_host", [True, False])
def test_people_here_and_on_synapse_read_everything_on_all_devices(
    tmp_path: Path, is_host: bool
) -> None:
    authority = Authority(tmp_path)
    with architex(tmp_path, authority) as ours, synapse(tmp_path, authority) as theirs:
        urls = (ours.url, theirs.url) if is_host else (theirs.url, ours.url)
        run_script("encryption.mjs", *urls, ca_file=authority.ca_file)
