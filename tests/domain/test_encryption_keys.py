"""Keys of end-to-end encryption: what is handed on has the spec's form, and names its owner.

Spec: https://spec.matrix.org/v1.19/client-server-api/#key-distribution
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architex.domain.encryption_keys import (
    MASTER,
    MAX_KEY_BYTES,
    MAX_ONE_TIME_KEYS,
    MAX_SIGNATURES,
    SELF_SIGNING,
    check_device_keys,
    check_fallback_keys,
    check_key_signature,
    check_one_time_keys,
    check_signatures_shape,
    check_signed_by,
    find_device_verify_key,
    is_relayable,
    parse_cross_signing_key,
)
from architex.domain.errors import BadJson, InvalidCanonicalJson, InvalidKeySignature
from architex.domain.signing import sign_json
from architex.domain.unpadded_base64 import encode_base64
from tests.device_keys import TestCrossSigning, TestDevice

ALICE = "@alice:a.example"
BOB = "@bob:b.example"
PHONE = TestDevice(ALICE, "PHONE")
LAPTOP = TestDevice(ALICE, "LAPTOP")
KEYS = TestCrossSigning(ALICE)

LONG_NAME = "ed25519:" + "k" * 600

# ---- device keys


def test_identity_keys_are_kept_as_they_were_signed() -> None:
    keys = PHONE.device_keys
    named = {**keys, "unsigned": {"device_display_name": "My phone"}}
    # What another device said beside the signed keys is not the uploader's to say.
    assert check_device_keys(named, ALICE, "PHONE") == keys


def test_identity_keys_may_name_algorithms_and_fields_that_nobody_knows() -> None:
    keys = {**PHONE.device_keys, "algorithms": ["org.example.new"], "org.example.field": [1]}
    assert check_device_keys(keys, ALICE, "PHONE") == keys


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": BOB},
        {"user_id": None},
        {"device_id": "LAPTOP"},
        {"algorithms": "m.olm.v1.curve25519-aes-sha2"},
        {"algorithms": None},
        {"algorithms": [1]},
        {"keys": None},
        {"keys": [["ed25519:PHONE", "x"]]},
        {"keys": {"ed25519:PHONE": 5}},
        {"keys": {"ed25519:PHONE": None}},
        {"keys": {"PHONE": "x"}},
        {"keys": {":PHONE": "x"}},
        {"keys": {"ed25519:": "x"}},
        {"keys": {"ed25519:\0": "x"}},
        {"keys": {LONG_NAME: "x"}},
        {"signatures": None},
        {"signatures": []},
        {"signatures": {ALICE: "x"}},
        {"signatures": {ALICE: {"ed25519:PHONE": 1}}},
        {"signatures": {ALICE: {f"ed25519:{n}": "x" for n in range(MAX_SIGNATURES + 1)}}},
        {"more": "x" * MAX_KEY_BYTES},
        {"more": 1.5},
        {"more": 2**60},
    ],
)
def test_identity_keys_of_another_form_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        check_device_keys({**PHONE.device_keys, **change}, ALICE, "PHONE")


@pytest.mark.parametrize("keys", [None, [], "keys", 1])
def test_identity_keys_are_an_object(keys: Any) -> None:
    with pytest.raises(BadJson):
        check_device_keys(keys, ALICE, "PHONE")


@pytest.mark.parametrize("missing", ["user_id", "device_id", "algorithms", "keys", "signatures"])
def test_no_part_of_identity_keys_may_be_missing(missing: str) -> None:
    keys = {name: value for name, value in PHONE.device_keys.items() if name != missing}
    with pytest.raises(BadJson):
        check_device_keys(keys, ALICE, "PHONE")


@pytest.mark.parametrize("count", [MAX_SIGNATURES, MAX_SIGNATURES + 1])
def test_number_of_signatures_is_bounded_over_all_who_signed(count: int) -> None:
    signatures = {f"@user{n}:x": {"ed25519:A": "x"} for n in range(count)}
    if count <= MAX_SIGNATURES:
        check_signatures_shape(signatures)
        return
    with pytest.raises(BadJson):
        check_signatures_shape(signatures)


@pytest.mark.parametrize(
    ("keys", "handed_on"),
    [
        (PHONE.device_keys, True),
        # Other servers may leave out what the query named already; clients judge the rest.
        ({}, True),
        ({"user_id": ALICE, "keys": 5}, True),
        ({"user_id": BOB, "device_id": "PHONE"}, False),
        ({"user_id": ALICE, "device_id": "LAPTOP"}, False),
        ({"more": "x" * MAX_KEY_BYTES}, False),
        ({"more": 0.5}, False),
        ({"more": "\ud800"}, False),
        (None, False),
        ([], False),
    ],
)
def test_keys_that_a_server_tells_are_handed_on_unless_they_are_of_another_device(
    keys: Any, handed_on: bool
) -> None:
    assert is_relayable(keys, ALICE, "PHONE") is handed_on


@pytest.mark.parametrize(
    "keys",
    [
        None,
        {},
        {"keys": []},
        {"keys": {}},
        {"keys": {"ed25519:PHONE": 5}},
        {"keys": {"ed25519:PHONE": "not base64!"}},
        {"keys": {"ed25519:PHONE": encode_base64(b"short")}},
        {"keys": {"ed25519:LAPTOP": encode_base64(b"k" * 32)}},
        {"keys": {"curve25519:PHONE": encode_base64(b"k" * 32)}},
    ],
)
def test_device_without_a_well_formed_fingerprint_key_has_none(keys: Any) -> None:
    assert find_device_verify_key(keys, "PHONE") is None


def test_fingerprint_key_is_the_ed25519_key_named_after_the_device() -> None:
    assert find_device_verify_key(PHONE.device_keys, "PHONE") == PHONE.key.verify_key


# ---- one-time and fallback keys


def test_one_time_keys_are_strings_or_signed_objects() -> None:
    uploaded = {"curve25519:AAAA": "plain", **PHONE.one_time_keys(["BBBB"])}
    plain, signed = check_one_time_keys(uploaded, ALICE, "PHONE", PHONE.device_keys)
    assert (plain.algorithm, plain.key_id, plain.key) == ("curve25519", "AAAA", "plain")
    assert (signed.algorithm, signed.key_id) == ("signed_curve25519", "BBBB")
    assert {key.name: key.key for key in (plain, signed)} == uploaded


def test_unsigned_data_of_a_one_time_key_is_not_handed_on() -> None:
    ((name, key),) = PHONE.one_time_keys(["AAAA"]).items()
    (checked,) = check_one_time_keys(
        {name: {**key, "unsigned": {"x": 1}}}, ALICE, "PHONE", PHONE.device_keys
    )
    assert checked.key == key


def test_signature_by_the_device_is_verified_where_its_key_is_known() -> None:
    forged = LAPTOP.one_time_keys(["AAAA"])["signed_curve25519:AAAA"]
    (signature,) = forged["signatures"][ALICE].values()
    forged["signatures"] = {ALICE: {"ed25519:PHONE": signature}}
    upload = {"signed_curve25519:AAAA": forged}
    with pytest.raises(InvalidKeySignature):
        check_one_time_keys(upload, ALICE, "PHONE", PHONE.device_keys)
    # Nothing to verify it by: whoever claims the key verifies it.
    assert check_one_time_keys(upload, ALICE, "PHONE", None)
    assert check_one_time_keys(upload, ALICE, "PHONE", {"keys": {}})


def test_key_changed_after_it_was_signed_is_refused() -> None:
    ((name, key),) = PHONE.one_time_keys(["AAAA"]).items()
    changed = {name: {**key, "key": encode_base64(b"another key of thirty-two bytes!")}}
    with pytest.raises(InvalidKeySignature):
        check_one_time_keys(changed, ALICE, "PHONE", PHONE.device_keys)


@pytest.mark.parametrize(
    "keys",
    [
        None,
        [],
        {"signed_curve25519": "x"},
        {"a:b": 5},
        {"a:b": None},
        {"a:b": ["x"]},
        {"a:b": {}},
        {"a:b": {"key": 5, "signatures": {}}},
        {"a:b": {"key": "x"}},
        {"a:b": {"key": "x", "signatures": []}},
        {"a:b": {"key": "x", "signatures": {}, "fallback": 1}},
        {"a:b": {"key": "x", "signatures": {}, "fallback": "true"}},
        {"a:b": "x" * (MAX_KEY_BYTES + 1)},
        {f"a:{number}": "x" for number in range(MAX_ONE_TIME_KEYS + 1)},
    ],
)
def test_one_time_keys_of_another_form_are_refused(keys: Any) -> None:
    with pytest.raises(BadJson):
        check_one_time_keys(keys, ALICE, "PHONE", None)


def test_one_upload_may_have_a_thousand_keys() -> None:
    keys = {f"a:{number}": "x" for number in range(MAX_ONE_TIME_KEYS)}
    assert len(check_one_time_keys(keys, ALICE, "PHONE", None)) == MAX_ONE_TIME_KEYS


def test_there_is_one_fallback_key_per_algorithm() -> None:
    one = PHONE.one_time_keys(["AAAA"], fallback=True)
    other = {"curve25519:AAAA": "plain"}
    assert len(check_fallback_keys({**one, **other}, ALICE, "PHONE", PHONE.device_keys)) == 2
    two = PHONE.one_time_keys(["AAAA", "BBBB"], fallback=True)
    with pytest.raises(BadJson):
        check_fallback_keys(two, ALICE, "PHONE", PHONE.device_keys)


# ---- cross-signing


def test_cross_signing_key_is_named_by_itself() -> None:
    key = parse_cross_signing_key({**KEYS.public("master"), "unsigned": {}}, ALICE, MASTER)
    secret = KEYS.secret("master")
    assert (key.key_id, key.verify_key) == (secret.key_id, secret.verify_key)
    assert key.content == KEYS.public("master")


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": BOB},
        {"user_id": None},
        {"usage": None},
        {"usage": "master"},
        {"usage": []},
        {"usage": ["self_signing"]},
        {"usage": ["master", 5]},
        {"keys": None},
        {"keys": {}},
        {"keys": {"ed25519:A": "A", "ed25519:B": "B"}},
        {"keys": {"ed25519:A": "B"}},
        {"keys": {"ed25519:A": 5}},
        {"keys": {"ed25519:A": "A"}},
        {"keys": {"ed25519:!": "!"}},
        {"signatures": 5},
        {"signatures": {ALICE: {"ed25519:A": None}}},
        {"more": "x" * MAX_KEY_BYTES},
        {"more": 1.5},
    ],
)
def test_cross_signing_key_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        parse_cross_signing_key({**KEYS.public("master"), **change}, ALICE, MASTER)


@pytest.mark.parametrize("content", [None, [], "key"])
def test_cross_signing_key_is_an_object(content: Any) -> None:
    with pytest.raises(BadJson):
        parse_cross_signing_key(content, ALICE, MASTER)


def test_keys_differ_by_what_is_signed_and_not_by_who_signed() -> None:
    key = parse_cross_signing_key(KEYS.public("master"), ALICE, MASTER)
    signed = sign_json(KEYS.public("master"), ALICE, PHONE.key)
    assert parse_cross_signing_key(signed, ALICE, MASTER).is_same_key(key)
    other = TestCrossSigning(ALICE, "2").public("master")
    assert not key.is_same_key(parse_cross_signing_key(other, ALICE, MASTER))
    assert not key.is_same_key(None)


def test_master_key_signs_the_others() -> None:
    master = parse_cross_signing_key(KEYS.public("master"), ALICE, MASTER)
    check_signed_by(KEYS.public(SELF_SIGNING), master)
    stranger = parse_cross_signing_key(
        TestCrossSigning(ALICE, "2").public("master"), ALICE, MASTER
    )
    with pytest.raises(InvalidKeySignature):
        check_signed_by(KEYS.public(SELF_SIGNING), stranger)


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": {}},
        {"signatures": {ALICE: {}}},
        {"signatures": {BOB: {"ed25519:PHONE": "x"}}},
        {"signatures": {ALICE: {"ed25519:PHONE": "not base64!"}}},
        {"signatures": {ALICE: {"ed25519:PHONE": encode_base64(bytes(64))}}},
        {"signatures": {ALICE: {"ed25519:PHONE": encode_base64(bytes(3))}}},
        {"device_id": "LAPTOP"},
        {"more": 1.5},
    ],
)
def test_key_without_a_good_signature_is_refused(change: dict[str, Any]) -> None:
    check_key_signature(PHONE.device_keys, ALICE, "ed25519:PHONE", PHONE.key.verify_key)
    with pytest.raises(InvalidKeySignature):
        check_key_signature(
            {**PHONE.device_keys, **change}, ALICE, "ed25519:PHONE", PHONE.key.verify_key
        )


# ---- whatever is uploaded

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(), max_size=4)
    | st.sampled_from([ALICE, "PHONE", "ed25519:PHONE", "master"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["user_id", "device_id", "keys", "usage", "signatures", "algorithms", ALICE]
            )
            | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(_json)
def test_odd_uploads_are_refused_by_name(value: Any) -> None:
    refusals = (BadJson, InvalidCanonicalJson, InvalidKeySignature)
    for check in (
        lambda: check_device_keys(value, ALICE, "PHONE"),
        lambda: check_one_time_keys(value, ALICE, "PHONE", PHONE.device_keys),
        lambda: check_fallback_keys({"a:b": value}, ALICE, "PHONE", PHONE.device_keys),
        lambda: parse_cross_signing_key(value, ALICE, MASTER),
    ):
        try:
            check()
        except refusals:
            continue
    assert is_relayable(value, ALICE, "PHONE") in (True, False)
