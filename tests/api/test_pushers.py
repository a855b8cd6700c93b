"""Pushers through the client API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import PASSWORD, User

URL = "https://push.example/_matrix/push/v1/notify"


def pusher(**changes: Any) -> dict[str, Any]:
    """The body that sets a pusher; None takes something away."""
    body = {
        "pushkey": "key",
        "kind": "http",
        "app_id": "org.example.app",
        "app_display_name": "App",
        "device_display_name": "Phone",
        "profile_tag": "tag",
        "lang": "en",
        "data": {"url": URL, "format": "event_id_only", "custom": "mine"},
        **changes,
    }
    return {key: value for key, value in body.items() if value is not None}


def keys(user: User) -> list[str]:
    """The pushkeys of a user."""
    return [p["pushkey"] for p in user.get("/pushers").ok()["pushers"]]


def set_pusher(user: User, **changes: Any) -> None:
    """Set a pusher."""
    user.post("/pushers/set", pusher(**changes)).ok()


def test_pusher_is_told_as_it_was_set(alice: User) -> None:
    set_pusher(alice)
    assert alice.get("/pushers").ok() == {"pushers": [pusher()]}
    set_pusher(alice, lang="de")
    assert alice.get("/pushers").ok() == {"pushers": [pusher(lang="de")]}


def test_pusher_without_a_kind_is_deleted(alice: User) -> None:
    set_pusher(alice)
    set_pusher(alice, pushkey="other")
    body = {"pushkey": "key", "app_id": "org.example.app", "kind": None}
    for _ in range(2):
        alice.post("/pushers/set", body).ok()
    assert keys(alice) == ["other"]


def test_pushkey_is_one_users_unless_both_want_it(alice: User, bob: User) -> None:
    shared, taken = f"shared {alice.user_id}", f"taken {alice.user_id}"
    set_pusher(alice, pushkey=shared)
    set_pusher(alice, pushkey=taken)
    set_pusher(bob, pushkey=shared, append=True)
    set_pusher(bob, pushkey=taken)
    assert keys(alice) == [shared]
    assert sorted(keys(bob)) == [shared, taken]


def test_pushers_of_other_devices_end_when_the_password_changes(alice: User) -> None:
    other = alice.log_in_again()
    set_pusher(alice, pushkey="mine")
    set_pusher(other, pushkey="other")
    assert sorted(keys(alice)) == ["mine", "other"]
    body = {"auth": alice.password_auth(), "new_password": PASSWORD + "!"}
    alice.post("/account/password", body).ok()
    assert keys(alice) == ["mine"]


@pytest.mark.parametrize(
    ("changes", "errcode"),
    [
        ({"app_id": None}, "M_MISSING_PARAM"),
        ({"pushkey": None}, "M_MISSING_PARAM"),
        ({"lang": None}, "M_MISSING_PARAM"),
        ({"data": None}, "M_MISSING_PARAM"),
        ({"data": {}}, "M_MISSING_PARAM"),
        ({"data": {"url": "http://push.example/_matrix/push/v1/notify"}}, "M_INVALID_PARAM"),
        ({"data": {"url": "https://push.example/elsewhere"}}, "M_INVALID_PARAM"),
        ({"data": {"url": "https://[::1/_matrix/push/v1/notify"}}, "M_INVALID_PARAM"),
        ({"data": {"url": 5}}, "M_INVALID_PARAM"),
        ({"data": "x"}, "M_BAD_JSON"),
        ({"kind": "pigeon"}, "M_INVALID_PARAM"),
        ({"app_id": "x" * 65}, "M_INVALID_PARAM"),
        ({"pushkey": "é" * 257}, "M_INVALID_PARAM"),
        ({"pushkey": "a\0b"}, "M_BAD_JSON"),
        ({"append": "yes"}, "M_BAD_JSON"),
    ],
)
def test_what_is_no_pusher_is_refused(alice: User, changes: dict[str, Any], errcode: str) -> None:
    alice.post("/pushers/set", pusher(**changes)).refused(400, errcode)
    assert keys(alice) == []


def test_kind_must_be_said(alice: User) -> None:
    alice.post("/pushers/set", pusher(kind=None)).refused(400, "M_MISSING_PARAM")
