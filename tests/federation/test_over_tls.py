"""Two real servers over TLS on the loopback address: each finds the other and gets its keys."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.authority import Authority
from tests.ports import free_port
from tests.server import RunningServer, start_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    """Two servers named by address and port, with certificates of one CA."""
    directory = tmp_path_factory.mktemp("federation")
    authority = Authority(directory)
    certificate = authority.issue("127.0.0.1")
    started: list[RunningServer] = []
    try:
        for _ in range(2):
            port = free_port()
            listener = {
                "host": "127.0.0.1",
                "port": port,
                "tls_certificate": certificate.certificate,
                "tls_key": certificate.key,
            }
            started.append(
                start_server(
                    directory,
                    ca_file=authority.ca_file,
                    server_name=f"127.0.0.1:{port}",
                    listeners=[listener],
                    federation={"ca_file": authority.ca_file, "ip_blocklist": []},
                )
            )
        yield started
    finally:
        for server in started:
            server.__exit__(None, None, None)


def name_of(server: RunningServer) -> str:
    return server.url.removeprefix("https://")


def check(server: RunningServer, *names: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """`architex federation check`: its status, and what it said by topic."""
    command = [sys.executable, "-m", "architex", "federation", "check", "--json"]
    config = ["--config", str(server.config_file)]
    result = subprocess.run(
        [*command, *config, *names], capture_output=True, text=True, check=False
    )
    by_topic: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        by_topic.setdefault(finding["topic"], []).append(finding)
    return result.returncode, by_topic


def test_each_server_is_notary_of_the_other(servers: list[RunningServer]) -> None:
    for one, other in (servers, servers[::-1]):
        path = f"/_matrix/key/v2/query/{name_of(other)}"
        status, answer = one.request("GET", path)
        assert status == 200
        (told,) = answer["server_keys"]
        assert told["server_name"] == name_of(other)
        assert set(told["signatures"]) == {name_of(one), name_of(other)}


def test_doctor_finds_healthy_servers_healthy(servers: list[RunningServer]) -> None:
    one, other = servers
    for names in ((), (name_of(other),)):
        status, findings = check(one, *names)
        assert status == 0, findings
        assert {"name", "DNS", "connection", "keys", "clock"} == set(findings)
        assert "Architex" in str(findings["connection"])
        assert "127.0.0.1, which only this network can reach" in str(findings["DNS"])


def test_doctor_says_what_is_broken(servers: list[RunningServer], tmp_path: Path) -> None:
    one, other = servers
    gone = f"127.0.0.1:{free_port()}"
    status, findings = check(one, gone)
    assert status == 1
    assert findings["connection"][0]["level"] == "failure"
    # Another server answers at this name: it tells its keys in its own name.
    alias = f"localhost:{name_of(other).partition(':')[2]}"
    status, findings = check(one, alias)
    assert status == 1
    assert "certificate" in findings["connection"][0]["message"]
    assert check(one, "no/name")[0] == 1
