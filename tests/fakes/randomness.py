"""Chance that is the same at each run of a seed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from random import Random  # noqa: TID251 - seeded, so that a run can be repeated

from architex.gateways.clock import Item


class SeededRandomness:
    """See architex.gateways.clock.Randomness."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)  # noqa: S311 - as above

    def token_urlsafe(self, n_bytes: int) -> str:
        """See Randomness."""
        return base64.urlsafe_b64encode(self.bytes(n_bytes)).decode().rstrip("=")

    def bytes(self, n_bytes: int) -> bytes:
        """See Randomness."""
        return self._random.randbytes(n_bytes)

    def choice(self, items: Sequence[Item]) -> Item:
        """See Randomness."""
        return self._random.choice(items)

    def uniform(self, low: float, high: float) -> float:
        """See Randomness."""
        return self._random.uniform(low, high)
