"""Looking names up: the hosts file, then name servers, asked over UDP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from architex.gateways.errors import RemoteUnreachable
from architex.gateways.name_lookup import Service, SystemNames

RECORDS = {
    ("a.example.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("a.example.", "AAAA"): ["2001:db8::1"],
    ("_matrix-fed._tcp.a.example.", "SRV"): ["10 5 8448 srv.example.", "20 0 443 ."],
    ("empty.example.", "A"): [],
}


class NameServer:
    """Answers from RECORDS; nothing for silent.example., failure for broken.example."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.asked = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            raw, sender = self._socket.recvfrom(4096)
            if not raw:
                return
            self.asked += 1
            query = dns.message.from_wire(raw)
            question = query.question[0]
            name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
            if name == "silent.example.":
                continue
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.RA
            records = RECORDS.get((name, kind))
            if name == "broken.example.":
                answer.set_rcode(dns.rcode.SERVFAIL)
            elif records:
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *records))
            elif not any(known == name for known, _ in RECORDS):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self._socket.sendto(answer.to_wire(), sender)


@pytest.fixture
def server() -> Iterator[NameServer]:
    started = NameServer()
    yield started
    started.close()


@pytest.fixture
def names(server: NameServer, tmp_path: Path) -> SystemNames:
    hosts = tmp_path / "hosts"
    hosts.write_text("::1 box\n127.0.0.1 box Box.Example # here\nnonsense line\n")
    return SystemNames(nameservers=["127.0.0.1"], port=server.port, hosts_file=hosts)


def test_addresses_are_found_ipv4_first(names: SystemNames) -> None:
    *ipv4, ipv6 = names.find_addresses("a.example", 5)
    # The records of a name have no order.
    assert sorted(ipv4) == ["192.0.2.1", "192.0.2.2"]
    assert ipv6 == "2001:db8::1"


def test_answers_are_remembered(names: SystemNames, server: NameServer) -> None:
    for _ in range(3):
        names.find_addresses("a.example", 5)
    assert server.asked == 2


def test_hosts_file_goes_first(names: SystemNames, server: NameServer) -> None:
    assert names.find_addresses("box", 5) == ["127.0.0.1", "::1"]
    assert names.find_addresses("BOX.example", 5) == ["127.0.0.1"]
    assert names.find_addresses("matrix.localhost", 5) == ["127.0.0.1", "::1"]
    assert server.asked == 0


def test_services_are_found(names: SystemNames) -> None:
    found = names.find_services("_matrix-fed._tcp.a.example", 5)
    assert sorted(found, key=lambda service: service.priority) == [
        Service(10, 5, 8448, "srv.example"),
        Service(20, 0, 443, ""),
    ]


@pytest.mark.parametrize("name", ["gone.example", "empty.example"])
def test_name_without_records_has_none(names: SystemNames, name: str) -> None:
    assert names.find_addresses(name, 5) == []
    assert names.find_services(name, 5) == []


@pytest.mark.parametrize("name", ["broken.example", "silent.example", "a..example", "x" * 64])
def test_name_that_cannot_be_looked_up_is_unreachable(names: SystemNames, name: str) -> None:
    with pytest.raises(RemoteUnreachable):
        names.find_addresses(name, 0.5)


@pytest.mark.parametrize("name", ["127.1", "2130706433", "0x7f.0.0.1"])
def test_numbers_that_are_no_addresses_are_names(names: SystemNames, name: str) -> None:
    # What inet_aton() would take for 127.0.0.1.
    assert names.find_addresses(name, 5) == []
