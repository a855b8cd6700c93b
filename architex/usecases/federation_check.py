"""A doctor for federation: looks at a server as others see it, and says so in plain language."""

from __future__ import annotations

import email.utils
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from architex.domain.canonical_json import parse_json
from architex.domain.errors import MatrixError
from architex.domain.identifiers import ServerName
from architex.domain.signing import SigningKey
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteBlocked, RemoteError
from architex.gateways.http import Blocklist, OutboundHttp, Target
from architex.gateways.name_lookup import NameLookup
from architex.gateways.server_discovery import Discovery, ServerDiscovery, parse_name
from architex.storage.server_keys import ServerKey
from architex.usecases.told_keys import read_told_keys

_TIMEOUT_S: Final = 15.0
_MAX_BYTES: Final = 65_536
_MAX_TARGETS: Final = 4
_DAY_S: Final = 86_400
_CERTIFICATE_DAYS: Final = 14
_CLOCK_WARNING_S: Final = 30
_CLOCK_FAILURE_S: Final = 300
_HOUR_MS: Final = 3_600_000

Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: name, well-known, DNS, connection, keys or clock.
        message: what was seen.
        advice: what to do about it; empty when there is nothing to do.
    """

    level: Level
    topic: str
    message: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class FederationCheck:
    """Looks at servers.

    Attributes:
        private: networks that only neighbours can reach.
        own_key: what we sign with, when our own server is looked at; else None.
    """

    discovery: ServerDiscovery
    http: OutboundHttp
    names: NameLookup
    clock: Clock
    private: Blocklist
    own_key: SigningKey | None = None

    def check(self, server_name: ServerName) -> Iterator[Finding]:
        """What can be found out about a server, thing by thing, as it is found."""
        try:
            found = self.discovery.explain(server_name)
        except RemoteError as error:
            yield Finding(
                "failure",
                "name",
                error.message,
                "A server name is a host name or an IP address, with a port if need be.",
            )
            return
        yield from self._check_way(server_name, found)
        for target in found.targets[:_MAX_TARGETS]:
            yield from self._check_addresses(target)
            yield from self._check_target(server_name, target)

    def _check_way(self, server_name: ServerName, found: Discovery) -> Iterator[Finding]:
        """How the name leads to a host and port."""
        name = parse_name(server_name)
        well_known = f"https://{server_name}/.well-known/matrix/server"
        if name.is_ip_literal or name.port is not None:
            yield Finding("ok", "name", "It names its address or port itself.")
        elif found.delegated is not None:
            yield Finding("ok", "well-known", f"{well_known} names {found.delegated}.")
        else:
            yield Finding(
                "ok",
                "well-known",
                f"There is no (valid) {well_known}: {found.well_known_error} That is fine if the "
                "server is at its own name.",
            )
        if found.service is not None:
            places = ", ".join(f"{target.host}:{target.port}" for target in found.targets)
            is_old = found.service.startswith("_matrix._tcp.")
            yield Finding(
                "warning" if is_old else "ok",
                "DNS",
                f"The SRV record {found.service} names {places}.",
                "Records of _matrix._tcp are deprecated; use _matrix-fed._tcp, or better a "
                "well-known file."
                if is_old
                else "",
            )

    def _check_addresses(self, target: Target) -> Iterator[Finding]:
        """Where a host is."""
        where = f"{target.host} port {target.port}"
        if _is_literal(target.host):
            addresses = [target.host]
        else:
            try:
                addresses = list(self.names.find_addresses(target.host, _TIMEOUT_S))
            except RemoteError as error:
                yield Finding("failure", "DNS", f"{where}: {error.message}", _DNS_ADVICE)
                return
        if not addresses:
            yield Finding("failure", "DNS", f"{target.host} has no address.", _DNS_ADVICE)
            return
        listed = ", ".join(addresses)
        if all(self.private.blocks(address) for address in addresses):
            yield Finding(
                "warning",
                "DNS",
                f"{where} is at {listed}, which only this network can reach.",
                "Seen from elsewhere it must be a public address, or nobody there can reach it.",
            )
        elif not _is_literal(target.host):
            yield Finding("ok", "DNS", f"{where} is at {listed}.")

    def _check_target(self, server_name: ServerName, target: Target) -> Iterator[Finding]:
        """What answers there: TLS, the program, keys, the clock."""
        where = f"{target.host} port {target.port}"
        path = "/_matrix/key/v2/server"
        try:
            with self.http.stream(
                "GET", target, path, timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES
            ) as answer:
                now_ms = self.clock.now_ms()
                body = answer.read_all()
                status, date = answer.status, answer.headers.get("Date")
                until_s = answer.certificate_until_s
        except RemoteBlocked:
            yield Finding(
                "failure",
                "connection",
                f"{where} is in a network of [federation] ip_blocklist.",
                "If that is meant to be reached, shorten the list in architex.toml.",
            )
            return
        except RemoteError as error:
            yield Finding("failure", "connection", f"{where}: {error.message}", _advice_on(error))
            return
        yield self._judge_certificate(target, until_s)
        yield from self._check_version(target)
        yield from self._judge_keys(server_name, status, body, now_ms)
        if date is not None:
            yield from _judge_clock(date, now_ms)

    def _judge_certificate(self, target: Target, until_s: float | None) -> Finding:
        where = f"{target.host} port {target.port}"
        days = ((until_s or 0.0) - self.clock.now_ms() / 1000) / _DAY_S
        message = (
            f"{where} answers, with a valid certificate for {target.tls_name} "
            f"(for {days:.0f} more days)."
        )
        if days < _CERTIFICATE_DAYS:
            return Finding("warning", "connection", message, "Renew the certificate soon.")
        return Finding("ok", "connection", message)

    def _check_version(self, target: Target) -> Iterator[Finding]:
        try:
            answer = self.http.fetch(
                "GET",
                target,
                "/_matrix/federation/v1/version",
                timeout_s=_TIMEOUT_S,
                max_bytes=_MAX_BYTES,
            )
            told = _json_object(answer.body).get("server")
        except (RemoteError, MatrixError) as error:
            yield Finding("warning", "connection", f"It does not say what it runs: {error}")
            return
        if answer.status == 200 and isinstance(told, dict):
            yield Finding("ok", "connection", f"It runs {told.get('name')} {told.get('version')}.")
        else:
            yield Finding(
                "failure",
                "connection",
                f"What answers there is no Matrix homeserver, or does not federate: "
                f"{answer.status} to /_matrix/federation/v1/version.",
                "A reverse proxy must hand on everything below /_matrix.",
            )

    def _judge_keys(
        self, server_name: ServerName, status: int, body: bytes, now_ms: int
    ) -> Iterator[Finding]:
        try:
            if status != 200:
                raise MatrixError(f"The answer is {status}.")
            keys = read_told_keys(server_name, _json_object(body), now_ms)
        except MatrixError as error:
            yield Finding(
                "failure",
                "keys",
                f"It tells no usable signing keys: {error.message}",
                f"What answers there must be the server that calls itself {server_name}.",
            )
            return
        current = [key for key in keys if key.expired_ts is None]
        yield _judge_validity(current, now_ms)
        if self.own_key is not None and not any(
            key.verify_key == self.own_key.verify_key for key in current
        ):
            yield Finding(
                "failure",
                "keys",
                f"It does not tell the key that this machine signs with, {self.own_key.key_id}.",
                "Another server answers there, or one with another signing_key_path.",
            )


_DNS_ADVICE: Final = "Make an A or AAAA record, or name another host in a well-known file."


def _judge_validity(keys: list[ServerKey], now_ms: int) -> Finding:
    names = ", ".join(sorted(key.key_id for key in keys))
    left_ms = max(key.valid_until_ts for key in keys) - now_ms
    if left_ms <= 0:
        return Finding(
            "failure", "keys", f"Its signing keys have expired: {names}.", "Compare the clocks."
        )
    level: Level = "ok" if left_ms >= _HOUR_MS else "warning"
    hours = left_ms / _HOUR_MS
    return Finding(level, "keys", f"It signs with {names}, valid for {hours:.0f} more hours.")


def _judge_clock(date: str, now_ms: int) -> Iterator[Finding]:
    try:
        theirs_s = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return
    apart_s = abs(theirs_s - now_ms / 1000)
    message = f"Its clock and ours are {apart_s:.0f} seconds apart."
    advice = "Let both machines get their time by NTP."
    if apart_s > _CLOCK_FAILURE_S:
        yield Finding("failure", "clock", message, advice)
    elif apart_s > _CLOCK_WARNING_S:
        yield Finding("warning", "clock", message, advice)
    else:
        yield Finding("ok", "clock", "Its clock agrees with ours.")


def _advice_on(error: RemoteError) -> str:
    if "certificate" in error.message:
        return "Its certificate must be for the server's name and of a CA that all trust."
    return "Look whether the server runs, and whether a firewall lets the port through."


def _json_object(body: bytes) -> dict[str, Any]:
    """Raises NotJson, MatrixError."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise MatrixError("The answer is no JSON object.")
    return value


def _is_literal(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()
