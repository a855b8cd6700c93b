"""Third-party identifiers: e-mail addresses in their one canonical form, and their kin.

Spec: https://spec.matrix.org/v1.19/appendices/#3pid-types
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import InvalidParam

EMAIL: Final = "email"
MSISDN: Final = "msisdn"

MAX_ADDRESS_LENGTH: Final = 254
"""Of an e-mail address, in characters: what SMTP can carry."""

# Nothing that has a meaning in the headers of a mail, or in a list of addresses.
_LOCAL_PART: Final = re.compile(r"""[^\s@<>()\[\]\\,;:"]{1,64}""")
_DOMAIN: Final = re.compile(r"[^\s@<>()\[\]\\,;:\"/?#%&=]+")

_OPAQUE: Final = re.compile(r"[0-9a-zA-Z.=_-]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ThirdPartyAddress:
    """Somebody's identifier in another namespace, in its canonical form.

    Attributes:
        medium: the namespace: email or msisdn.
    """

    medium: str
    address: str


def parse_email(text: str) -> ThirdPartyAddress:
    """An e-mail address in its canonical form: case folded, the domain too.

    Raises:
        InvalidParam: it is none.

    Spec: https://spec.matrix.org/v1.19/appendices/#e-mail
    """
    if len(text) > MAX_ADDRESS_LENGTH or not text.isprintable():
        raise InvalidParam("This is no e-mail address.")
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    local_part, _, domain = folded.rpartition("@")
    if (
        len(folded) > MAX_ADDRESS_LENGTH
        or _LOCAL_PART.fullmatch(local_part) is None
        or _DOMAIN.fullmatch(domain) is None
        # A hyphen first would look like an option to programs that take addresses.
        or local_part.startswith("-")
    ):
        raise InvalidParam("This is no e-mail address.")
    try:
        domain.encode("idna")
    except UnicodeError:
        raise InvalidParam("The domain of the e-mail address is no domain.") from None
    return ThirdPartyAddress(EMAIL, folded)


def parse_address(medium: str, address: str) -> ThirdPartyAddress:
    """An identifier of any medium that the spec has, in its canonical form.

    Raises:
        InvalidParam: there is no such medium, or it is no address of it.
    """
    if medium == EMAIL:
        return parse_email(address)
    digits = address.removeprefix("+")
    if medium == MSISDN and digits.isascii() and digits.isdigit() and len(digits) <= 20:
        return ThirdPartyAddress(MSISDN, digits)
    raise InvalidParam("This is no e-mail address and no phone number.")


def check_opaque(value: str, name: str) -> str:
    """A session ID, client secret or token, if it is of the grammar that those have.

    Args:
        name: what it is called, for the refusal.

    Raises:
        InvalidParam: it is empty, too long, or has other characters.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registeremailrequesttoken
    """
    if _OPAQUE.fullmatch(value) is None:
        raise InvalidParam(f"{name} has 1 to 255 characters of 0-9 a-z A-Z . = _ -")
    return value
