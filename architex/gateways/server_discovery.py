"""Server discovery: from a server name to where its server is.

Spec: https://spec.matrix.org/v1.19/server-server-api/#server-discovery
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.canonical_json import parse_json
from architex.domain.errors import NotJson
from architex.domain.identifiers import ServerName, is_server_name
from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import RemoteError, RemoteUnintelligible, RemoteUnreachable
from architex.gateways.http import Answer, OutboundHttp, Target
from architex.gateways.name_lookup import NameLookup, Service

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8448

_WELL_KNOWN_PATH: Final = "/.well-known/matrix/server"
_MAX_WELL_KNOWN_BYTES: Final = 50 * 1024
_WELL_KNOWN_TIMEOUT_S: Final = 10.0
_LOOKUP_TIMEOUT_S: Final = 5.0

# What the spec recommends; the least keeps "no-store" from costing a request per request.
_DEFAULT_LIFETIME_S: Final = 24 * 3600.0
_MAX_LIFETIME_S: Final = 48 * 3600.0
_MIN_LIFETIME_S: Final = 300.0
_FIRST_ERROR_LIFETIME_S: Final = 60.0
_MAX_ERROR_LIFETIME_S: Final = 3600.0

_REMEMBERED_NAMES: Final = 10_000
_NAME: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:]+))(?::(?P<port>[0-9]+))?")
_MAX_AGE: Final = re.compile(r'(?:^|[,\s])max-age\s*=\s*"?([0-9]{1,9})', re.IGNORECASE)
_NOT_STORED: Final = re.compile(r"(?:^|[,\s])(?:no-store|no-cache)(?:$|[,\s])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ParsedName:
    """A server name in its parts.

    Attributes:
        host: a host name, or an IP address without brackets.
        port: None when it names none.
    """

    host: str
    port: int | None
    is_ip_literal: bool


def parse_name(server_name: ServerName) -> ParsedName:
    """The parts of a server name.

    Raises:
        RemoteUnreachable: it is none, or its port does not exist.
    """
    match = _NAME.fullmatch(server_name) if is_server_name(server_name) else None
    port = None if match is None or match["port"] is None else int(match["port"])
    if match is None or port == 0 or (port or 0) > 65_535:
        raise RemoteUnreachable(server_name, "This is no server name.")
    if match["v6"] is not None:
        return ParsedName(match["v6"], port, True)
    host = match["host"]
    try:
        # Leading zeros are allowed by the grammar; they do not make the number octal.
        parts = [str(int(part)) for part in host.split(".")] if host[0].isdigit() else []
        host = str(ipaddress.IPv4Address(".".join(parts)))
    except ValueError:
        return ParsedName(host, port, False)
    return ParsedName(host, port, True)


@dataclass(slots=True)
class _WellKnown:
    """What a server's well-known file said, and until when that holds."""

    delegated: ServerName | None
    expires: float
    failures: int = 0
    good_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where a server is, and how that was found; the latter is for people.

    Attributes:
        targets: in the order to try; at least one.
        delegated: what its well-known file names; None when it has no (valid) one.
        well_known_error: why there is no valid well-known file; None when there is, or when none
            was looked for.
        service: the SRV record's name; None when none was used.
    """

    targets: Sequence[Target]
    delegated: ServerName | None = None
    well_known_error: str | None = None
    service: str | None = None


class ServerDiscovery:
    """Finds servers by their names; remembers well-known files."""

    def __init__(
        self, http: OutboundHttp, names: NameLookup, clock: Clock, randomness: Randomness
    ) -> None:
        self._http = http
        self._names = names
        self._clock = clock
        self._randomness = randomness
        self._well_known: OrderedDict[ServerName, _WellKnown] = OrderedDict()
        self._asking: dict[ServerName, threading.Lock] = {}
        self._lock = threading.Lock()

    def find(self, server_name: ServerName) -> Sequence[Target]:
        """Where a server may be, in the order to try; at least one.

        Raises:
            RemoteUnreachable: it is no server name, or says that it is nowhere.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names
        """
        return self.explain(server_name).targets

    def explain(self, server_name: ServerName) -> Discovery:
        """As `find`, with the way there."""
        name = parse_name(server_name)
        # 1. IP literals and 2. explicit ports need no discovery.
        if name.is_ip_literal or name.port is not None:
            return Discovery([_direct(server_name, name)])
        # 3. The well-known file.
        delegated, error = self._find_delegated(server_name)
        if delegated is None:
            # 4. to 6. As if it had delegated to itself.
            targets, service = self._find_host(server_name)
            return Discovery(targets, well_known_error=error, service=service)
        name = parse_name(delegated)
        # 3.1 and 3.2
        if name.is_ip_literal or name.port is not None:
            return Discovery([_direct(delegated, name)], delegated)
        # 3.3 to 3.5
        targets, service = self._find_host(delegated)
        return Discovery(targets, delegated, service=service)

    def _find_host(self, host: str) -> tuple[Sequence[Target], str | None]:
        """By SRV records, else the host itself at the default port; the record's name too."""
        for prefix in ("_matrix-fed._tcp.", "_matrix._tcp."):
            try:
                services = self._names.find_services(prefix + host, _LOOKUP_TIMEOUT_S)
            except RemoteUnreachable as error:
                log.debug("SRV records of %s: %s", host, error)
                continue
            if services:
                offered = [service for service in services if service.host]
                if not offered:
                    raise RemoteUnreachable(host, "Its SRV record says that it has no server.")
                ordered = self._in_order(offered)
                # The record is as trustworthy as DNS: the certificate is for the host's own name.
                targets = [Target(one.host, one.port, _no_dot(host), host) for one in ordered]
                return targets, prefix + host
        return [Target(_no_dot(host), DEFAULT_PORT, _no_dot(host), host)], None

    def _in_order(self, services: Sequence[Service]) -> list[Service]:
        """By priority; among equals by chance, the heavier the sooner (RFC 2782)."""

        def turn(service: Service) -> tuple[int, float]:
            chance = self._randomness.uniform(0.0, 1.0)
            return service.priority, -(chance ** (1.0 / (service.weight + 0.01)))

        return sorted(services, key=turn)

    # ---- the well-known file

    def _find_delegated(self, host: str) -> tuple[ServerName | None, str | None]:
        """What the well-known file names, and why it names nothing."""
        with self._lock:
            asking = self._asking.setdefault(host, threading.Lock())
        try:
            with asking:
                return self._find_delegated_now(host)
        finally:
            with self._lock:
                self._asking.pop(host, None)

    def _find_delegated_now(self, host: str) -> tuple[ServerName | None, str | None]:
        now = self._clock.monotonic()
        with self._lock:
            known = self._well_known.get(host)
            if known is not None:
                self._well_known.move_to_end(host)
        if known is not None and now < known.expires:
            return known.delegated, None if known.delegated else "It failed a while ago."
        try:
            answer = self._http.fetch_url(
                "GET",
                f"https://{host}{_WELL_KNOWN_PATH}",
                timeout_s=_WELL_KNOWN_TIMEOUT_S,
                max_bytes=_MAX_WELL_KNOWN_BYTES,
            )
            delegated = _read_well_known(host, answer)
        except RemoteError as error:
            return self._note_failure(host, known, now, error), error.message
        lifetime_s = _lifetime_s(answer)
        self._remember(host, _WellKnown(delegated, now + lifetime_s, 0, now + _MAX_LIFETIME_S))
        return delegated, None

    def _note_failure(
        self, host: str, known: _WellKnown | None, now: float, error: RemoteError
    ) -> ServerName | None:
        """Remember that there is no file; what it said lately holds through a mere outage."""
        failures = 1 if known is None else known.failures + 1
        wait_s = min(_FIRST_ERROR_LIFETIME_S * 2 ** min(failures - 1, 10), _MAX_ERROR_LIFETIME_S)
        wait_s *= self._randomness.uniform(0.9, 1.0)
        delegated, good_until = None, 0.0
        is_outage = isinstance(error, RemoteUnreachable)
        if known is not None and is_outage and now < known.good_until:
            delegated, good_until = known.delegated, known.good_until
        self._remember(host, _WellKnown(delegated, now + wait_s, failures, good_until))
        return delegated

    def _remember(self, host: str, said: _WellKnown) -> None:
        with self._lock:
            self._well_known[host] = said
            self._well_known.move_to_end(host)
            if len(self._well_known) > _REMEMBERED_NAMES:
                self._well_known.popitem(last=False)


def _direct(server_name: ServerName, name: ParsedName) -> Target:
    host = _no_dot(name.host)
    return Target(host, name.port or DEFAULT_PORT, host, server_name)


def _no_dot(host: str) -> str:
    """A host name as certificates have it."""
    return host.rstrip(".") or host


def _read_well_known(host: str, answer: Answer) -> ServerName:
    """The server that a well-known file names. Raises RemoteError when it is not valid."""
    if answer.status >= 500:
        raise RemoteUnreachable(host, f"Its well-known file is not there now: {answer.status}.")
    if answer.status != 200:
        raise RemoteUnintelligible(host, f"It has no well-known file: {answer.status}.")
    try:
        told = parse_json(answer.body)
    except NotJson as error:
        raise RemoteUnintelligible(host, "Its well-known file is not JSON.") from error
    delegated = told.get("m.server") if isinstance(told, dict) else None
    if not isinstance(delegated, str) or not is_server_name(delegated):
        raise RemoteUnintelligible(host, "Its well-known file names no server in m.server.")
    return delegated


def _lifetime_s(answer: Answer) -> float:
    """How long a well-known file holds, by its Cache-Control header and within bounds."""
    control = ",".join(answer.headers.get_all("Cache-Control") or [])
    if _NOT_STORED.search(control):
        return _MIN_LIFETIME_S
    match = _MAX_AGE.search(control)
    if match is None:
        return _DEFAULT_LIFETIME_S
    return max(_MIN_LIFETIME_S, min(float(match[1]), _MAX_LIFETIME_S))
