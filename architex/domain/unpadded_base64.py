"""Unpadded base64, standard and URL-safe.

Spec: https://spec.matrix.org/v1.19/appendices/#unpadded-base64
"""

from __future__ import annotations

import binascii
import re
from typing import Final

_ALPHABET: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_TO_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def encode_base64(data: bytes) -> str:
    """Return data in the standard alphabet, without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode("ascii")


def encode_base64url(data: bytes) -> str:
    """Return data in the URL-safe alphabet, without padding.

    Spec: https://spec.matrix.org/v1.19/appendices/#url-safe-unpadded-base64
    """
    encoded = binascii.b2a_base64(data, newline=False).rstrip(b"=")
    return encoded.translate(_TO_URL_SAFE).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64 text, with or without padding, of either alphabet.

    Raises:
        ValueError: it is not base64.
    """
    standard = text.replace("-", "+").replace("_", "/")
    if _ALPHABET.fullmatch(standard) is None:
        raise ValueError("not base64")
    standard = standard.rstrip("=")
    try:
        return binascii.a2b_base64(standard + "=" * (-len(standard) % 4))
    except binascii.Error as error:
        raise ValueError("not base64") from error
