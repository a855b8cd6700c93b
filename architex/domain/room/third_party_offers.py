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

MAX_TRIES: Final = 64
"""Pairs of a signature and a key that are tried."""


@dataclass(frozen=True, slots=True)
class OfferKey:
    """A key by which an identity server may sign whose the address is.

    Attributes:
        public_key: in base64, as the offer has it.
        validity_url: where to ask whether it still holds; None when it holds for ever.
    """

    public_key: str
    validity_url: str | None


def list_signing_keys(offer: Mapping[str, Any], signed: Mapping[str, Any]) -> list[OfferKey]:
    """The keys of an offer whose signature is on what an identity server said.

    Args:
        offer: the content of the m.room.third_party_invite event.
        signed: `mxid`, `token` and `signatures`.
    """
    signatures = signed.get("signatures")
    if not isinstance(signatures, dict):
        return []
    try:
        message = signed_json(signed)
    except InvalidCanonicalJson:
        return []
    candidates = [item for entity in signatures for item in signatures_of(signed, entity).items()]
    found: dict[OfferKey, None] = {}
    for (key_id, signature), key in islice(product(candidates, _keys(offer)), MAX_TRIES):
        try:
            verify_signature(message, signature, key_id, decode_base64(key.public_key))
        except (InvalidSignature, ValueError):
            continue
        found[key] = None
    return list(found)


def _keys(offer: Mapping[str, Any]) -> Iterator[OfferKey]:
    listed = offer.get("public_keys")
    for entry in [offer, *(listed if isinstance(listed, list) else [])]:
        public_key = entry.get("public_key") if isinstance(entry, dict) else None
        url = entry.get("key_validity_url") if isinstance(entry, dict) else None
        if isinstance(public_key, str):
            yield OfferKey(public_key, url if isinstance(url, str) else None)
