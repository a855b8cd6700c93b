"""Signatures on keys: taken only when they are good, seen only by those who may."""

from __future__ import annotations

import copy
from typing import Any

from architex.domain.signing import sign_json
from tests.api.client import User
from tests.api.test_encryption_keys import query, sign_in, upload_device_keys

UPLOAD = "/keys/signatures/upload"


def test_self_signed_device_is_told_with_the_signature(alice: User, bob: User) -> None:
    device, keys = upload_device_keys(alice), sign_in(alice)
    signed = sign_json(device.device_keys, alice.user_id, keys.secret("self_signing"))
    body = {alice.user_id: {alice.device_id: signed}}
    assert alice.post(UPLOAD, body).ok() == {"failures": {}}
    told = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]
    assert set(told["signatures"][alice.user_id]) == {
        f"ed25519:{alice.device_id}",
        keys.secret("self_signing").key_id,
    }


def test_new_keys_of_a_device_lose_the_signature_of_the_old(alice: User, bob: User) -> None:
    device, keys = upload_device_keys(alice), sign_in(alice)
    signed = sign_json(device.device_keys, alice.user_id, keys.secret("self_signing"))
    alice.post(UPLOAD, {alice.user_id: {alice.device_id: signed}}).ok()
    changed = {**device.device_keys, "algorithms": ["m.new"]}
    changed = sign_json(changed, alice.user_id, device.key)
    alice.post("/keys/upload", {"device_keys": changed}).ok()
    told = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]
    assert set(told["signatures"][alice.user_id]) == {f"ed25519:{alice.device_id}"}


def test_device_signs_the_master_key(alice: User, bob: User) -> None:
    device, keys = upload_device_keys(alice), sign_in(alice)
    master = keys.public("master")
    name = keys.secret("master").verify_key_base64
    signed = sign_json(master, alice.user_id, device.key)
    assert alice.post(UPLOAD, {alice.user_id: {name: signed}}).ok() == {"failures": {}}
    told = query(bob, alice.user_id)["master_keys"][alice.user_id]
    assert set(told["signatures"][alice.user_id]) == {f"ed25519:{alice.device_id}"}


def test_signature_of_a_device_goes_with_it(alice: User, bob: User) -> None:
    other = alice.log_in_again(device_id="OTHER")
    device, keys = upload_device_keys(other), sign_in(alice)
    name = keys.secret("master").verify_key_base64
    signed = sign_json(keys.public("master"), alice.user_id, device.key)
    assert other.post(UPLOAD, {alice.user_id: {name: signed}}).ok() == {"failures": {}}
    other.post("/logout").ok()
    assert "signatures" not in query(bob, alice.user_id)["master_keys"][alice.user_id]


def test_only_the_signer_sees_the_signature_on_another_users_key(alice: User, bob: User) -> None:
    keys, theirs = sign_in(alice), sign_in(bob)
    name = theirs.secret("master").verify_key_base64
    since = alice.get("/sync").ok()["next_batch"]
    signed = sign_json(theirs.public("master"), alice.user_id, keys.secret("user_signing"))
    assert alice.post(UPLOAD, {bob.user_id: {name: signed}}).ok() == {"failures": {}}
    told = query(alice, bob.user_id)["master_keys"][bob.user_id]
    assert set(told["signatures"]) == {alice.user_id}
    assert "signatures" not in query(bob, bob.user_id)["master_keys"][bob.user_id]
    # Other devices of the signer learn of it.
    changed = alice.get("/sync", since=since).ok()["device_lists"]["changed"]
    assert changed == [bob.user_id]


def failure(user: User, target: str, name: str, content: Any) -> str:
    """The error code of a signature that is not taken."""
    told = user.post(UPLOAD, {target: {name: content}}).ok()
    code: str = told["failures"][target][name]["errcode"]
    return code


def test_bad_signatures_are_refused_one_by_one(alice: User, bob: User) -> None:
    device, keys = upload_device_keys(alice), sign_in(alice)
    theirs = sign_in(bob)
    good = sign_json(device.device_keys, alice.user_id, keys.secret("self_signing"))
    bad = copy.deepcopy(good)
    bad["signatures"][alice.user_id][keys.secret("self_signing").key_id] = "A" * 86
    assert failure(alice, alice.user_id, alice.device_id, bad) == "M_INVALID_SIGNATURE"
    other = sign_json(
        {**device.device_keys, "algorithms": []}, alice.user_id, keys.secret("self_signing")
    )
    assert failure(alice, alice.user_id, alice.device_id, other) == "M_INVALID_SIGNATURE"
    unsigned = device.device_keys
    assert failure(alice, alice.user_id, alice.device_id, unsigned) == "M_INVALID_SIGNATURE"
    assert failure(alice, alice.user_id, "NOPE", good) == "M_NOT_FOUND"
    assert failure(alice, alice.user_id, "nul\0", good) == "M_NOT_FOUND"
    assert failure(alice, alice.user_id, alice.device_id, []) == "M_BAD_JSON"
    name = theirs.secret("master").verify_key_base64
    # By the self-signing key, which is for own devices.
    wrong = sign_json(theirs.public("master"), alice.user_id, keys.secret("self_signing"))
    assert failure(alice, bob.user_id, name, wrong) == "M_INVALID_SIGNATURE"
    right = sign_json(theirs.public("master"), alice.user_id, keys.secret("user_signing"))
    assert failure(alice, bob.user_id, "nope", right) == "M_NOT_FOUND"
    assert failure(alice, "nobody", name, right) == "M_NOT_FOUND"
    body = {alice.user_id: {alice.device_id: good}, bob.user_id: {name: wrong}}
    told = alice.post(UPLOAD, body).ok()["failures"]
    assert set(told) == {bob.user_id}


def test_nobody_signs_devices_of_others(alice: User, bob: User) -> None:
    device = upload_device_keys(bob)
    keys = sign_in(alice)
    signed = sign_json(device.device_keys, alice.user_id, keys.secret("self_signing"))
    assert failure(alice, bob.user_id, bob.device_id, signed) == "M_NOT_FOUND"


def test_new_self_signing_key_ends_what_the_old_one_signed(alice: User, bob: User) -> None:
    device, keys = upload_device_keys(alice), sign_in(alice)
    signed = sign_json(device.device_keys, alice.user_id, keys.secret("self_signing"))
    alice.post(UPLOAD, {alice.user_id: {alice.device_id: signed}}).ok()
    body = {**type(keys)(alice.user_id, "2").upload, "auth": alice.password_auth()}
    alice.post("/keys/device_signing/upload", body).ok()
    told = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]
    assert set(told["signatures"][alice.user_id]) == {f"ed25519:{alice.device_id}"}


def test_malformed_upload_is_refused(alice: User) -> None:
    alice.post(UPLOAD, {alice.user_id: []}).refused(400, "M_BAD_JSON")
