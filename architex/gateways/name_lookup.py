"""The domain name system: addresses of host names, and SRV records."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import dns.exception
import dns.name
import dns.resolver

from architex.gateways.errors import RemoteUnreachable

_HOSTS_FILE: Final = Path("/etc/hosts")
_CACHED_ANSWERS: Final = 20_000
_MAX_ADDRESSES: Final = 16
_MAX_SERVICES: Final = 16


@dataclass(frozen=True, slots=True)
class Service:
    """One SRV record.

    Attributes:
        priority: the lowest is tried first.
        weight: among equal priorities, how often this one is to be the first.
        host: a host name, without a dot at its end; empty when the service is not offered.
    """

    priority: int
    weight: int
    port: int
    host: str


class NameLookup(Protocol):
    """Looks names up."""

    def find_addresses(self, name: str, timeout_s: float) -> Sequence[str]:
        """The IP addresses of a host name, IPv4 first; none when there is no such name.

        Raises:
            RemoteUnreachable: the name servers do not answer.
        """

    def find_services(self, name: str, timeout_s: float) -> Sequence[Service]:
        """The SRV records of a name such as `_matrix-fed._tcp.example.org`, in any order.

        Raises:
            RemoteUnreachable: the name servers do not answer.
        """


class SystemNames:
    """The hosts file and the name servers of this machine; cached as long as the answers say.

    Asks by sockets of its own, so that under gevent a slow name server delays nobody else.
    """

    def __init__(
        self,
        *,
        nameservers: Sequence[str] = (),
        port: int = 53,
        hosts_file: Path = _HOSTS_FILE,
    ) -> None:
        """Remember whom to ask; reads /etc/resolv.conf on first use.

        Args:
            nameservers: addresses of name servers; by default the machine's.
            port: theirs.
        """
        self._nameservers = list(nameservers)
        self._port = port
        self._hosts = _HostsFile(hosts_file)
        self._resolver: dns.resolver.Resolver | None = None
        self._making = threading.Lock()

    def find_addresses(self, name: str, timeout_s: float) -> Sequence[str]:
        """See NameLookup."""
        known = self._hosts.find(name)
        if known:
            return known
        # IPv4 first: where IPv6 leads nowhere, that shows only after a time-out.
        records = [
            *self._resolve(name, "A", timeout_s),
            *self._resolve(name, "AAAA", timeout_s),
        ]
        return [str(record.address) for record in records][:_MAX_ADDRESSES]

    def find_services(self, name: str, timeout_s: float) -> Sequence[Service]:
        """See NameLookup."""
        return [
            Service(
                record.priority,
                record.weight,
                record.port,
                record.target.to_text(omit_final_dot=True).removesuffix("."),
            )
            for record in list(self._resolve(name, "SRV", timeout_s))[:_MAX_SERVICES]
        ]

    def _resolve(self, name: str, kind: str, timeout_s: float) -> Iterable[Any]:
        try:
            # Absolute: the machine's search domains are for people, not for other servers' names.
            absolute = dns.name.from_text(name)
            answer = self._get_resolver().resolve(
                absolute, kind, lifetime=timeout_s, search=False, raise_on_no_answer=False
            )
        except dns.resolver.NXDOMAIN:
            return ()
        except (dns.exception.DNSException, UnicodeError, OSError) as error:
            raise RemoteUnreachable(name, f"The name cannot be looked up: {error}") from error
        return answer.rrset or ()

    def _get_resolver(self) -> dns.resolver.Resolver:
        with self._making:
            if self._resolver is None:
                resolver = dns.resolver.Resolver(configure=not self._nameservers)
                if self._nameservers:
                    resolver.nameservers = list(self._nameservers)
                resolver.port = self._port
                resolver.cache = dns.resolver.LRUCache(_CACHED_ANSWERS)
                self._resolver = resolver
            return self._resolver


class _HostsFile:
    """The names in /etc/hosts; read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: int | None = None
        self._addresses: dict[str, list[str]] = {}

    def find(self, name: str) -> Sequence[str]:
        """The addresses of a name; none when the file does not have it."""
        name = name.lower().rstrip(".")
        try:
            modified = self._path.stat().st_mtime_ns
            if modified != self._read_at:
                self._addresses = _parse_hosts(self._path.read_text(errors="replace"))
                self._read_at = modified
        except OSError:
            self._addresses = {}
        found = self._addresses.get(name)
        # Names that never leave this machine, whatever its files say (RFC 6761).
        if not found and (name == "localhost" or name.endswith(".localhost")):
            return ["127.0.0.1", "::1"]
        return found or ()


def _parse_hosts(text: str) -> dict[str, list[str]]:
    addresses: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        try:
            is_v4 = ipaddress.ip_address(address.partition("%")[0]).version == 4
        except ValueError:
            continue
        for name in names:
            of_name = addresses.setdefault(name.lower(), [])
            of_name.insert(0 if is_v4 else len(of_name), address)
    return addresses
