"""Which keys of an offer vouch for what an identity server signed."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.signing import SigningKey, sign_json
from architex.domain.third_party_offers import OfferKey, list_signing_keys

FIRST = SigningKey.from_seed(b"a" * 32, "0")
SECOND = SigningKey.from_seed(b"b" * 32, "0")
SAID = {"mxid": "@bob:x.example", "token": "t"}
OFFER = {
    "public_key": FIRST.verify_key_base64,
    "key_validity_url": "https://id.example/first",
    "public_keys": [
        {"public_key": FIRST.verify_key_base64, "key_validity_url": "https://id.example/first"},
        {"public_key": SECOND.verify_key_base64},
    ],
}


def test_keys_that_signed_are_told_with_where_to_ask_about_them() -> None:
    by_first = sign_json(SAID, "id.example", FIRST)
    assert list_signing_keys(OFFER, by_first) == [
        OfferKey(FIRST.verify_key_base64, "https://id.example/first")
    ]
    by_second = sign_json(SAID, "id.example", SECOND)
    assert list_signing_keys(OFFER, by_second) == [OfferKey(SECOND.verify_key_base64, None)]


@pytest.mark.parametrize(
    "offer",
    [
        {},
        {"public_key": 5},
        {"public_key": "?"},
        {"public_key": "AAAA"},
        {"public_keys": {}},
        {"public_keys": [None, 1, {}, {"public_key": []}]},
        {"public_key": SECOND.verify_key_base64},
    ],
)
def test_other_keys_vouch_for_nothing(offer: dict[str, Any]) -> None:
    assert list_signing_keys(offer, sign_json(SAID, "id.example", FIRST)) == []


@pytest.mark.parametrize(
    "signed",
    [
        SAID,
        {**SAID, "signatures": []},
        {**SAID, "signatures": {"x": {"ed25519:0": 5}}},
        {**SAID, "signatures": {"x": {"ed25519:0": "AAAA"}}},
        {**sign_json(SAID, "id.example", FIRST), "mxid": "@eve:x.example"},
        {**sign_json(SAID, "id.example", FIRST), "more": 1.5},
    ],
)
def test_what_was_not_signed_has_no_keys(signed: dict[str, Any]) -> None:
    assert list_signing_keys(OFFER, signed) == []


def test_many_signatures_cost_little() -> None:
    signatures = {f"s{number}": {"ed25519:0": "A" * 86} for number in range(10_000)}
    genuine = sign_json(SAID, "id.example", FIRST)
    signatures["z"] = genuine["signatures"]["id.example"]
    # The genuine one comes too late to be tried.
    assert list_signing_keys(OFFER, {**SAID, "signatures": signatures}) == []
