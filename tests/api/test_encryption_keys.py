"""Keys of devices through the client API."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from architex.domain.signing import sign_json
from tests.api.client import PASSWORD, Server, User
from tests.device_keys import TestCrossSigning, TestDevice
from tests.waiting import eventually


def device_of(user: User) -> TestDevice:
    """The device's own secrets."""
    return TestDevice(user.user_id, user.device_id)


def upload_device_keys(user: User) -> TestDevice:
    """Upload the identity keys of a user's device."""
    device = device_of(user)
    user.post("/keys/upload", {"device_keys": device.device_keys}).ok()
    return device


def query(user: User, *others: str) -> Any:
    """Ask for all keys of some users."""
    return user.post("/keys/query", {"device_keys": {other: [] for other in others}}).ok()


def claim(user: User, of: User) -> dict[str, Any]:
    """Claim a key of a device; name → key, empty when there is none."""
    wanted = {of.user_id: {of.device_id: "signed_curve25519"}}
    told = user.post("/keys/claim", {"one_time_keys": wanted}).ok()
    assert told["failures"] == {}
    keys: dict[str, Any] = told["one_time_keys"].get(of.user_id, {}).get(of.device_id, {})
    return keys


# ---- identity keys


def test_uploaded_device_keys_are_told_to_others(alice: User, bob: User) -> None:
    device = upload_device_keys(alice)
    told = query(bob, alice.user_id)
    keys = told["device_keys"][alice.user_id][alice.device_id]
    assert keys == {**device.device_keys, "unsigned": {}}
    assert told["failures"] == {}


def test_single_devices_can_be_asked_for(alice: User, bob: User) -> None:
    other = alice.log_in_again()
    upload_device_keys(alice)
    upload_device_keys(other)
    wanted = {alice.user_id: [other.device_id, "nope"]}
    told = bob.post("/keys/query", {"device_keys": wanted}).ok()
    assert set(told["device_keys"][alice.user_id]) == {other.device_id}


def test_devices_without_keys_are_not_told(alice: User, bob: User) -> None:
    assert query(bob, alice.user_id)["device_keys"] == {alice.user_id: {}}


def test_name_of_a_device_is_told_beside_its_keys(alice: User, bob: User) -> None:
    upload_device_keys(alice)
    alice.put(f"/devices/{alice.device_id}", {"display_name": "phone"}).ok()
    keys = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]
    assert keys["unsigned"] == {"device_display_name": "phone"}


def test_deleted_devices_have_no_keys(alice: User, bob: User) -> None:
    other = alice.log_in_again()
    upload_device_keys(other)
    other.post("/logout").ok()
    assert query(bob, alice.user_id)["device_keys"] == {alice.user_id: {}}


def _changed(keys: dict[str, Any], /, **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(keys)
    changed.update(changes)
    return {name: value for name, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": "@mallory:test.example"},
        {"device_id": "OTHER"},
        {"algorithms": None},
        {"algorithms": "m.olm.v1.curve25519-aes-sha2"},
        {"algorithms": [1]},
        {"keys": None},
        {"keys": []},
        {"keys": {"ed25519": "x"}},
        {"keys": {"ed25519:A": 1}},
        {"signatures": None},
        {"signatures": []},
        {"signatures": {"@a:b": "x"}},
        {"signatures": {"@a:b": {"ed25519:A": 5}}},
        {"extra": 1.5},
        {"extra": 2**60},
        {"extra": "x" * 70_000},
    ],
)
def test_malformed_device_keys_are_refused(alice: User, changes: dict[str, Any]) -> None:
    keys = _changed(device_of(alice).device_keys, **changes)
    alice.post("/keys/upload", {"device_keys": keys}).refused(400, "M_BAD_JSON")


def test_signature_of_a_device_on_its_own_keys_is_for_others_to_judge(
    alice: User, bob: User
) -> None:
    keys = _changed(device_of(alice).device_keys, algorithms=["changed"])
    alice.post("/keys/upload", {"device_keys": keys}).ok()
    told = query(bob, alice.user_id)["device_keys"][alice.user_id][alice.device_id]
    assert told == {**keys, "unsigned": {}}


@pytest.mark.parametrize(
    "body",
    [
        {"device_keys": []},
        {"one_time_keys": []},
        {"one_time_keys": {"noname": "x"}},
        {"one_time_keys": {":x": "x"}},
        {"one_time_keys": {"a:\0": "x"}},
        {"one_time_keys": {"a:b": 5}},
        {"one_time_keys": {"a:b": {"signatures": {}}}},
        {"one_time_keys": {"a:b": {"key": "x"}}},
        {"one_time_keys": {"a:b": {"key": "x", "signatures": {"@a:b": []}}}},
        {"one_time_keys": {"a:b": {"key": "x", "signatures": {}, "n": 1.5}}},
        {"fallback_keys": {"a:1": "x", "a:2": "y"}},
        {"fallback_keys": {"a:1": {"key": "x", "signatures": {}, "fallback": "yes"}}},
    ],
)
def test_malformed_keys_are_refused(alice: User, body: Any) -> None:
    alice.post("/keys/upload", body).refused(400, "M_BAD_JSON")


def test_nobody_without_a_token_uploads(server: Server) -> None:
    server.request("POST", "/keys/upload", {}).refused(401, "M_MISSING_TOKEN")


# ---- one-time keys


def test_each_one_time_key_is_given_out_once_and_in_the_order_of_uploads(
    alice: User, bob: User
) -> None:
    device = upload_device_keys(alice)
    for batch in (["b2", "b1"], ["a1"]):
        keys = device.one_time_keys(batch)
        told = alice.post("/keys/upload", {"one_time_keys": keys}).ok()
    assert told == {"one_time_key_counts": {"signed_curve25519": 3}}
    claimed = [next(iter(claim(bob, alice))) for _ in range(3)]
    assert set(claimed[:2]) == {"signed_curve25519:b1", "signed_curve25519:b2"}
    assert claimed[2] == "signed_curve25519:a1"
    assert claim(bob, alice) == {}


def test_claimed_key_is_what_was_uploaded(alice: User, bob: User) -> None:
    device = upload_device_keys(alice)
    keys = device.one_time_keys(["k"])
    alice.post("/keys/upload", {"one_time_keys": keys}).ok()
    assert claim(bob, alice) == keys


def test_repeated_upload_does_not_bring_a_claimed_key_back(alice: User, bob: User) -> None:
    body = {"one_time_keys": device_of(alice).one_time_keys(["k1", "k2"])}
    alice.post("/keys/upload", body).ok()
    first = claim(bob, alice)
    told = alice.post("/keys/upload", body).ok()
    assert told["one_time_key_counts"] == {"signed_curve25519": 1}
    second = claim(bob, alice)
    assert first != second
    assert len(first | second) == 2
    assert claim(bob, alice) == {}


def test_another_key_of_the_same_id_is_refused(alice: User) -> None:
    alice.post("/keys/upload", {"one_time_keys": {"a:1": "x", "a:2": "y"}}).ok()
    body = {"one_time_keys": {"a:1": "other", "a:3": "z"}}
    alice.post("/keys/upload", body).refused(400, "M_INVALID_PARAM")
    told = alice.post("/keys/upload", {}).ok()
    assert told["one_time_key_counts"] == {"a": 2}


def test_one_time_key_with_a_bad_signature_is_refused(alice: User) -> None:
    device = upload_device_keys(alice)
    keys = device.one_time_keys(["k"])
    keys["signed_curve25519:k"]["key"] = "other"
    answer = alice.post("/keys/upload", {"one_time_keys": keys})
    answer.refused(400, "M_INVALID_SIGNATURE")


def test_fallback_key_is_given_again_and_again(alice: User, bob: User) -> None:
    device = upload_device_keys(alice)
    fallback = device.one_time_keys(["fb"], fallback=True)
    body = {"one_time_keys": device.one_time_keys(["k"]), "fallback_keys": fallback}
    alice.post("/keys/upload", body).ok()
    assert alice.get("/sync").ok()["device_unused_fallback_key_types"] == ["signed_curve25519"]
    assert set(claim(bob, alice)) == {"signed_curve25519:k"}
    assert claim(bob, alice) == fallback
    assert claim(bob, alice) == fallback
    assert alice.get("/sync").ok()["device_unused_fallback_key_types"] == []


def test_repeated_upload_of_a_used_fallback_key_leaves_it_used(alice: User, bob: User) -> None:
    body = {"fallback_keys": device_of(alice).one_time_keys(["fb"], fallback=True)}
    alice.post("/keys/upload", body).ok()
    claim(bob, alice)
    alice.post("/keys/upload", body).ok()
    assert alice.get("/sync").ok()["device_unused_fallback_key_types"] == []
    body = {"fallback_keys": device_of(alice).one_time_keys(["fb2"], fallback=True)}
    alice.post("/keys/upload", body).ok()
    assert alice.get("/sync").ok()["device_unused_fallback_key_types"] == ["signed_curve25519"]


def test_every_sync_counts_the_keys_of_its_own_device(alice: User) -> None:
    other = alice.log_in_again()
    keys = device_of(alice).one_time_keys(["a", "b"])
    alice.post("/keys/upload", {"one_time_keys": keys}).ok()
    first = alice.get("/sync").ok()
    idle = alice.get("/sync", since=first["next_batch"]).ok()
    for told in (first, idle):
        assert told["device_one_time_keys_count"] == {"signed_curve25519": 2}
    # To some clients a count that is missing is no news: they would never upload again.
    assert other.get("/sync").ok()["device_one_time_keys_count"] == {"signed_curve25519": 0}


def test_sync_says_so_when_all_one_time_keys_are_claimed(alice: User, bob: User) -> None:
    keys = device_of(alice).one_time_keys(["a"])
    alice.post("/keys/upload", {"one_time_keys": keys}).ok()
    before = alice.get("/sync").ok()
    claim(bob, alice)
    idle = alice.get("/sync", since=before["next_batch"]).ok()
    assert idle["device_one_time_keys_count"] == {"signed_curve25519": 0}


@pytest.mark.parametrize("change", ["upload", "claim", "use of the fallback key"])
def test_waiting_sync_counts_the_keys_there_are_when_it_is_answered(
    server: Server, alice: User, bob: User, change: str
) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{room_id}/join").ok()
    device = device_of(alice)
    keys: dict[str, Any] = {"fallback_keys": device.one_time_keys(["fb"], fallback=True)}
    if change == "claim":
        keys["one_time_keys"] = device.one_time_keys(["a"])
    alice.post("/keys/upload", keys).ok()
    since = alice.get("/sync").ok()["next_batch"]
    # Twice: the first answer may be put together in another way than those after it.
    for number in range(2):
        with ThreadPoolExecutor(1) as waiting:
            answer = waiting.submit(alice.get, "/sync", since=since, timeout=20_000)
            eventually(lambda: server.core.notifier.is_waited_for(alice.user_id))
            if number == 1 and change == "upload":
                more = device.one_time_keys(["b", "c"])
                alice.post("/keys/upload", {"one_time_keys": more}).ok()
            elif number == 1:
                claim(bob, alice)
            bob.put(f"/rooms/{room_id}/send/m.room.message/{number}", {"body": "hi"}).ok()
            told = answer.result().ok()
        since = told["next_batch"]
    counts = told["device_one_time_keys_count"]["signed_curve25519"]
    assert counts == {"upload": 2, "claim": 0, "use of the fallback key": 0}[change]
    unused = told["device_unused_fallback_key_types"]
    assert unused == ([] if change.startswith("use") else ["signed_curve25519"])


def test_claiming_from_nobody_gives_nothing(alice: User) -> None:
    wanted = {"@nobody:test.example": {"D": "signed_curve25519", "nul\0": "x"}}
    told = alice.post("/keys/claim", {"one_time_keys": wanted}).ok()
    assert told == {"one_time_keys": {}, "failures": {}}


@pytest.mark.parametrize(
    ("path", "body", "errcode"),
    [
        ("/keys/query", {}, "M_MISSING_PARAM"),
        ("/keys/query", {"device_keys": []}, "M_BAD_JSON"),
        ("/keys/query", {"device_keys": {"@a:b": "x"}}, "M_BAD_JSON"),
        ("/keys/query", {"device_keys": {"nobody": []}}, "M_INVALID_PARAM"),
        ("/keys/query", {"device_keys": {}, "timeout": "x"}, "M_BAD_JSON"),
        ("/keys/query", {"device_keys": {}, "timeout": -1}, "M_BAD_JSON"),
        ("/keys/claim", {}, "M_MISSING_PARAM"),
        ("/keys/claim", {"one_time_keys": {"@a:b": {"D": 5}}}, "M_BAD_JSON"),
        ("/keys/claim", {"one_time_keys": {"nobody": {}}}, "M_INVALID_PARAM"),
    ],
)
def test_malformed_questions_are_refused(alice: User, path: str, body: Any, errcode: str) -> None:
    alice.post(path, body).refused(400, errcode)


# ---- cross-signing


def sign_in(user: User, edition: str = "1") -> TestCrossSigning:
    """Upload the cross-signing keys of a user."""
    keys = TestCrossSigning(user.user_id, edition)
    user.post("/keys/device_signing/upload", keys.upload).ok()
    return keys


def test_first_cross_signing_keys_need_no_password(alice: User, bob: User) -> None:
    keys = sign_in(alice)
    told = query(bob, alice.user_id)
    assert told["master_keys"][alice.user_id] == keys.public("master")
    assert told["self_signing_keys"][alice.user_id] == keys.public("self_signing")
    assert told["user_signing_keys"] == {}
    own = query(alice, alice.user_id)
    assert own["user_signing_keys"][alice.user_id] == keys.public("user_signing")


def test_same_keys_again_need_no_password(alice: User) -> None:
    sign_in(alice)
    sign_in(alice)


def test_other_keys_need_the_password(alice: User) -> None:
    sign_in(alice)
    other = TestCrossSigning(alice.user_id, "2")
    first = alice.post("/keys/device_signing/upload", other.upload)
    assert first.status == 401
    auth = alice.password_auth(session=first.json["session"])
    alice.post("/keys/device_signing/upload", {**other.upload, "auth": auth}).ok()
    told = query(alice, alice.user_id)
    assert told["master_keys"][alice.user_id] == other.public("master")


def test_keys_that_a_new_master_key_signed_anew_are_told_with_its_signature(alice: User) -> None:
    old, new = sign_in(alice), TestCrossSigning(alice.user_id, "2")
    kept = {k: v for k, v in old.public("self_signing").items() if k != "signatures"}
    signed = sign_json(kept, alice.user_id, new.secret("master"))
    body = {"master_key": new.public("master"), "self_signing_key": signed}
    first = alice.post("/keys/device_signing/upload", body)
    auth = alice.password_auth(session=first.json["session"])
    alice.post("/keys/device_signing/upload", {**body, "auth": auth}).ok()
    assert query(alice, alice.user_id)["self_signing_keys"][alice.user_id] == signed


def test_upload_of_no_cross_signing_keys_changes_nothing(alice: User) -> None:
    alice.post("/keys/device_signing/upload", {}).ok()
    assert query(alice, alice.user_id)["master_keys"] == {}


def test_authentication_for_some_keys_is_good_for_no_others(alice: User) -> None:
    sign_in(alice)
    wanted = TestCrossSigning(alice.user_id, "2")
    first = alice.post("/keys/device_signing/upload", wanted.upload)
    auth = alice.password_auth(session=first.json["session"])
    other = TestCrossSigning(alice.user_id, "3")
    answer = alice.post("/keys/device_signing/upload", {**other.upload, "auth": auth})
    answer.refused(403, "M_FORBIDDEN")


def test_other_keys_without_a_master_key_are_refused(alice: User) -> None:
    keys = TestCrossSigning(alice.user_id).public("self_signing")
    answer = alice.post("/keys/device_signing/upload", {"self_signing_key": keys})
    answer.refused(400, "M_MISSING_PARAM")


def test_key_that_the_master_key_did_not_sign_is_refused(alice: User) -> None:
    keys, other = (TestCrossSigning(alice.user_id, edition) for edition in "12")
    body = {**keys.upload, "self_signing_key": other.public("self_signing")}
    answer = alice.post("/keys/device_signing/upload", body)
    answer.refused(400, "M_INVALID_SIGNATURE")


def test_cross_signing_key_named_like_a_device_is_refused(alice: User) -> None:
    keys = TestCrossSigning(alice.user_id)
    alice.log_in_again(device_id=keys.secret("master").verify_key_base64)
    alice.post("/keys/device_signing/upload", keys.upload).refused(403, "M_FORBIDDEN")


def test_device_named_like_a_cross_signing_key_gets_no_keys(alice: User) -> None:
    sign_in(alice)
    # Nobody can log in so, but could once.
    alice.server.core.database.execute(
        "UPDATE cross_signing_keys SET public_key = %s WHERE user_id = %s AND usage = 'master'",
        (alice.device_id, alice.user_id),
    )
    body = {"device_keys": device_of(alice).device_keys}
    alice.post("/keys/upload", body).refused(403, "M_FORBIDDEN")


def test_device_named_like_a_cross_signing_key_is_not_logged_in(alice: User) -> None:
    keys = sign_in(alice)
    for usage in ("master", "self_signing", "user_signing"):
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": alice.user_id},
            "password": PASSWORD,
            "device_id": keys.secret(usage).verify_key_base64,
        }
        alice.server.request("POST", "/login", body).refused(403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": "@mallory:test.example"},
        {"usage": ["self_signing"]},
        {"usage": "master"},
        {"keys": {}},
        {"keys": {"ed25519:a": "b"}},
        {"keys": {"ed25519:abc": "abc"}},
        {"keys": {"curve25519:abc": "abc"}},
        {"signatures": []},
        {"extra": 1.5},
    ],
)
def test_malformed_cross_signing_keys_are_refused(alice: User, changes: dict[str, Any]) -> None:
    key = _changed(TestCrossSigning(alice.user_id).public("master"), **changes)
    answer = alice.post("/keys/device_signing/upload", {"master_key": key})
    answer.refused(400, "M_BAD_JSON")
