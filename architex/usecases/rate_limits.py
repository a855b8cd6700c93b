"""Rate limits: a bucket of tokens for each kind of request and each who makes it.

The buckets are this process's own. With several processes a limit is a little wider than its
numbers say; what it protects from is floods.

Spec: https://spec.matrix.org/v1.19/client-server-api/#rate-limiting
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import LimitExceeded
from architex.gateways.clock import Clock

MAX_BUCKETS: Final = 20_000
"""Buckets kept per kind; the ones untouched for longest are forgotten first."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How often one may do something.

    Attributes:
        per_second: how fast the bucket fills; above 0.
        burst: how much it holds; at least 1.
    """

    per_second: float
    burst: int


class RateLimits:
    """Buckets by kind ("login", "registration", …) and key: a user ID, room ID or IP address.

    With IPv6 everybody has a network of 2^64 addresses, and could take another for each request:
    there the network counts.

    A kind without a limit is free. Safe under gevent: nothing here waits.
    """

    def __init__(self, clock: Clock, limits: Mapping[str, RateLimit], *, enabled: bool) -> None:
        self._clock = clock
        self._limits: Mapping[str, RateLimit] = limits if enabled else {}
        # Key → (tokens, the moment they were counted).
        self._buckets: dict[str, OrderedDict[str, tuple[float, float]]] = {
            kind: OrderedDict() for kind in self._limits
        }

    def spend(self, kind: str, key: str) -> None:
        """Take a token from a bucket.

        Raises:
            LimitExceeded: it has none left.
        """
        limit = self._limits.get(kind)
        if limit is None:
            return
        tokens, now = self._tokens(kind, key, limit)
        if tokens < 1:
            raise _exceeded(limit, tokens)
        buckets, counted_by = self._buckets[kind], _counted_by(key)
        buckets[counted_by] = (tokens - 1, now)
        buckets.move_to_end(counted_by)
        if len(buckets) > MAX_BUCKETS:
            buckets.popitem(last=False)

    def check(self, kind: str, key: str) -> None:
        """Look into a bucket without taking anything.

        Raises:
            LimitExceeded: it has no token left.
        """
        limit = self._limits.get(kind)
        if limit is None:
            return
        tokens, _ = self._tokens(kind, key, limit)
        if tokens < 1:
            raise _exceeded(limit, tokens)

    def _tokens(self, kind: str, key: str, limit: RateLimit) -> tuple[float, float]:
        now = self._clock.monotonic()
        bucket = self._buckets[kind].get(_counted_by(key))
        if bucket is None:
            return float(limit.burst), now
        tokens, counted = bucket
        return min(float(limit.burst), tokens + (now - counted) * limit.per_second), now


def _counted_by(key: str) -> str:
    """What has the bucket of a key: itself, or the network of an IPv6 address."""
    if key.startswith(("@", "!")):
        return key
    try:
        parsed = ipaddress.ip_address(key)
    except ValueError:
        return key
    return key if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


def _exceeded(limit: RateLimit, tokens: float) -> LimitExceeded:
    wait_ms = math.ceil((1 - tokens) / limit.per_second * 1000)
    return LimitExceeded("Too many requests; wait a while.", retry_after_ms=max(1, wait_ms))
