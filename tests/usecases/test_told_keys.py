"""What servers tell of their signing keys is believed if it is theirs, signed and no bad key."""

from __future__ import annotations

import pytest

from architex.domain.errors import BadJson, InvalidSignature
from architex.usecases import told_keys
from architex.usecases.told_keys import read_told_keys
from tests.federation.peers import Peer


@pytest.fixture
def peer() -> Peer:
    return Peer("peer.example")


def test_told_keys_must_be_of_the_server_and_signed_by_it(peer: Peer) -> None:
    told = peer.tell_keys(10)
    assert len(read_told_keys(peer.server_name, told, 5)) == 1
    with pytest.raises(BadJson):
        read_told_keys("other.example", told, 5)
    with pytest.raises(InvalidSignature):
        read_told_keys(peer.server_name, {**told, "valid_until_ts": 11}, 5)
    with pytest.raises(InvalidSignature):
        read_told_keys(peer.server_name, {**told, "signatures": {}}, 5)
    with pytest.raises(BadJson):
        read_told_keys(peer.server_name, {**told, "valid_until_ts": 1.5}, 5)


def test_key_that_everybody_has_counts_for_nothing(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = peer.tell_keys(10)
    monkeypatch.setattr(told_keys, "COMPROMISED_KEYS", {peer.key.verify_key})
    with pytest.raises(InvalidSignature):
        read_told_keys(peer.server_name, told, 5)
