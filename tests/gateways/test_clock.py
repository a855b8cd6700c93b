"""Chance as the operating system gives it."""

from __future__ import annotations

import random  # noqa: TID251 - what our secrets must not depend on

from architex.gateways.clock import SystemRandomness


def test_secrets_cannot_be_foretold() -> None:
    chance = SystemRandomness()

    def draw() -> list[object]:
        random.seed(1)
        letters = [chance.choice("ABCDEFGHIJ") for _ in range(40)]
        return [chance.token_urlsafe(32), chance.bytes(32), letters]

    state = random.getstate()
    try:
        first, second = draw(), draw()
    finally:
        random.setstate(state)
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert len(str(first[0])) == 43
