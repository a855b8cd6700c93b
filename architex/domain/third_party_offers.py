"""Offers of an invite to whoever has an address (m.room.third_party_invite): who vouches for one.

Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomthird_party_invite
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Final

from architex.domain.errors import InvalidCanonicalJson, InvalidSignature
from architex.domain.signing import signatures_of, signed_json, verify_signature
from architex.domain.unpadded_base64 import decode_base64

MAX_TRIES: Final = 256
"""Pairs of a signature and a key that are tried.

Two events of 64 KiB could hold hundreds of signatures and a thousand keys: half a minute of work.
Honest ones have one or two of each.
"""


@dataclass(frozen=True, slots=True)
class OfferKey:
    """A key by which an identity server may sign whose the address is.

    Attributes:
        public_key: in base64, as the offer has it.
        validity_url: where to ask whether it still holds; None when it holds for ever.
    """

    public_key: str
    validity_url: str | None


def is_signed_by_any_key(offer: Mapping[str, Any], signed: Mapping[str, Any]) -> bool:
    """Whether the signature of any key of an offer is on what an identity server said.

    Args:
        offer: the content of the m.room.third_party_invite event.
        signed: `mxid`, `token` and `signatures`.

    Spec: https://spec.matrix.org/v1.19/rooms/v11/#authorisation-rules (rule 4.4.1.7)
    """
    return any(True for _ in _signing_keys(offer, signed))


def list_signing_keys(offer: Mapping[str, Any], signed: Mapping[str, Any]) -> list[OfferKey]:
    """The keys of an offer whose signature is on what an identity server said, each once.

    Args:
        offer: the content of the m.room.third_party_invite event.
        signed: `mxid`, `token` and `signatures`.
    """
    return list(dict.fromkeys(_signing_keys(offer, signed)))


def _signing_keys(offer: Mapping[str, Any], signed: Mapping[str, Any]) -> Iterator[OfferKey]:
    """The key of every signature that verifies, as soon as one does."""
    signatures = signed.get("signatures")
    if not isinstance(signatures, dict):
        return
    try:
        message = signed_json(signed)
    except InvalidCanonicalJson:
        return
    candidates = (item for entity in signatures for item in signatures_of(signed, entity).items())
    for (key_id, signature), (key, verify_key) in islice(
        product(candidates, _keys(offer)), MAX_TRIES
    ):
        try:
            verify_signature(message, signature, key_id, verify_key)
        except InvalidSignature:
            continue
        yield key


def _keys(offer: Mapping[str, Any]) -> Iterator[tuple[OfferKey, bytes]]:
    """`public_key`, and those of `public_keys`; what is no base64 is left out."""
    listed = offer.get("public_keys")
    for entry in [offer, *(listed if isinstance(listed, list) else [])]:
        public_key = entry.get("public_key") if isinstance(entry, dict) else None
        if not isinstance(public_key, str):
            continue
        try:
            verify_key = decode_base64(public_key)
        except ValueError:
            continue
        url = entry.get("key_validity_url")
        yield OfferKey(public_key, url if isinstance(url, str) else None), verify_key
