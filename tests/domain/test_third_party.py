"""E-mail addresses have one canonical form, and nothing in them that means something elsewhere.

Spec: https://spec.matrix.org/v1.19/appendices/#3pid-types
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architex.domain.errors import InvalidParam
from architex.domain.third_party import check_opaque, parse_address, parse_email


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("bob@Example.com", "bob@example.com"),
        ("BOB@example.com", "bob@example.com"),
        # The spec's own example.
        ("Strauß@Example.com", "strauss@example.com"),
        ("a.b+c@example.com", "a.b+c@example.com"),
        ("cafe\N{COMBINING ACUTE ACCENT}@example.com", "café@example.com"),
        ("\N{KELVIN SIGN}elvin@example.com", "kelvin@example.com"),
        ("x@Bücher.example", "x@bücher.example"),
    ],
)
def test_address_has_one_form(typed: str, canonical: str) -> None:
    assert parse_email(typed).address == canonical
    assert parse_email(canonical).address == canonical


@settings(max_examples=50)
@given(st.text(max_size=12), st.text(max_size=12))
def test_what_is_taken_can_stand_in_a_mail(local_part: str, domain: str) -> None:
    try:
        address = parse_email(f"{local_part}@{domain}").address
    except InvalidParam:
        return
    assert parse_email(address).address == address
    assert address.isprintable()
    assert not set(address) & set(' <>,;:"\\()[]')
    assert address.count("@") == 1
    assert not address.startswith("-")


@pytest.mark.parametrize(
    ("medium", "address"),
    [("msisdn", "abc"), ("msisdn", ""), ("msisdn", "1" * 30), ("msisdn", "١٢"), ("pigeon", "x")],
)
def test_what_is_no_identifier_is_refused(medium: str, address: str) -> None:
    with pytest.raises(InvalidParam):
        parse_address(medium, address)


def test_phone_numbers_have_no_plus() -> None:
    assert parse_address("msisdn", "+4915112345").address == "4915112345"


@pytest.mark.parametrize("value", ["", "a b", "a/b", "ä", "a" * 256, "a\n"])
def test_secrets_have_a_grammar(value: str) -> None:
    with pytest.raises(InvalidParam):
        check_opaque(value, "client_secret")


def test_secrets_may_have_all_that_the_spec_lists() -> None:
    assert check_opaque("09azAZ.=_-", "client_secret") == "09azAZ.=_-"


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "alice",
        "@example.com",
        "alice@",
        "-alice@example.com",
        "alice@ex ample.com",
        "al\nice@example.com",
        "alice@" + "x" * 600,
        # No label of a domain is longer than 63 bytes as it is sent.
        "alice@" + "ü" * 70 + ".example",
    ],
)
def test_what_is_no_e_mail_address_is_refused(typed: str) -> None:
    with pytest.raises(InvalidParam):
        parse_email(typed)
    with pytest.raises(InvalidParam):
        parse_address("email", typed)


def test_identifier_of_either_medium_has_its_canonical_form() -> None:
    assert parse_address("email", "BOB@Example.com") == parse_email("bob@example.com")
    assert parse_address("msisdn", "4915112345").medium == "msisdn"
