"""Reports to administrators, rooms in common, calls, other networks, moderation of accounts."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from architex.storage.reports import Report, ReportStore
from architex.usecases.requester import Requester
from architex.usecases.turn_servers import TurnServers
from tests.api.client import Server, User, segment
from tests.api.test_receipts import send
from tests.fakes.clock import FakeClock

REASON = {"reason": "it is rude"}


def reports(server: Server) -> list[Report]:
    return list(ReportStore(server.core.database).list_reports())


def make_admin(user: User) -> None:
    user.server.core.database.execute(
        "UPDATE users SET is_admin = true WHERE user_id = %s", (user.user_id,)
    )


def test_report_of_an_event_reaches_the_administrators(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{room_id}/join", {}).ok()
    event_id = send(bob, room_id)
    alice.post(f"/rooms/{room_id}/report/{event_id}", {**REASON, "score": -100}).ok()
    report = reports(alice.server)[-1]
    assert (report.reported_by, report.user_id) == (alice.user_id, bob.user_id)
    assert (report.room_id, report.event_id, report.reason) == (room_id, event_id, "it is rude")


def test_event_is_reported_by_who_is_in_its_room(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id)
    bob.post(f"/rooms/{room_id}/report/{event_id}", REASON).refused(404, "M_NOT_FOUND")
    alice.post(f"/rooms/{room_id}/report/$nothing", REASON).refused(404, "M_NOT_FOUND")
    other = alice.create_room()
    alice.post(f"/rooms/{other}/report/{event_id}", REASON).refused(404, "M_NOT_FOUND")


def test_rooms_and_users_are_reported_without_learning_of_them(alice: User, bob: User) -> None:
    room_id = bob.create_room()
    alice.post(f"/rooms/{room_id}/report", REASON).ok()
    alice.post("/rooms/!nowhere:test.example/report", REASON).ok()
    alice.post(f"/users/{segment(bob.user_id)}/report", REASON).ok()
    alice.post("/users/@nobody:test.example/report", REASON).ok()
    alice.post("/users/@far:away.example/report", REASON).ok()
    assert [r.user_id for r in reports(alice.server)[-4:]] == [
        None,
        None,
        bob.user_id,
        "@far:away.example",
    ]


def test_report_needs_a_reason_of_a_bounded_size(alice: User, bob: User) -> None:
    path = f"/users/{segment(bob.user_id)}/report"
    alice.post(path, {}).refused(400, "M_MISSING_PARAM")
    alice.post(path, {"reason": 1}).refused(400, "M_BAD_JSON")
    alice.post(path, {"reason": "x" * 10_001}).refused(413, "M_TOO_LARGE")


def test_mutual_rooms_are_those_that_both_are_in(alice: User, bob: User) -> None:
    shared = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{shared}/join", {}).ok()
    alice.create_room(invite=[bob.user_id])
    found = alice.get("/mutual_rooms", user_id=bob.user_id).ok()
    assert found == {"joined": [shared], "count": 1}
    assert alice.get("/mutual_rooms", user_id="@no:body.example").ok()["joined"] == []
    alice.get("/mutual_rooms", user_id=alice.user_id).refused(400, "M_INVALID_PARAM")
    alice.get("/mutual_rooms", user_id="nobody").refused(400, "M_INVALID_PARAM")
    alice.get("/mutual_rooms").refused(400, "M_MISSING_PARAM")


def test_turn_credentials_can_be_checked_by_the_turn_server() -> None:
    clock = FakeClock()
    servers = TurnServers(clock, ("turn:turn.example",), "secret", 600)
    credentials = servers.make_credentials(Requester("@alice:test.example"))
    assert credentials is not None
    expires, _, user_id = credentials.username.partition(":")
    assert int(expires) == clock.now_ms() // 1000 + 600
    assert user_id == "@alice:test.example"
    expected = hmac.new(b"secret", credentials.username.encode(), hashlib.sha1).digest()
    assert base64.b64decode(credentials.password) == expected


def test_without_turn_servers_there_are_no_credentials(alice: User) -> None:
    assert alice.get("/voip/turnServer").ok() == {}


def test_no_bridge_reaches_another_network(alice: User) -> None:
    assert alice.get("/thirdparty/protocols").ok() == {}
    assert alice.get("/thirdparty/user", userid=alice.user_id).ok() == []
    assert alice.get("/thirdparty/location", alias="#a:b.c").ok() == []
    alice.get("/thirdparty/protocol/irc").refused(404, "M_NOT_FOUND")
    alice.get("/thirdparty/user/irc").refused(404, "M_NOT_FOUND")


@pytest.mark.parametrize(("what", "key"), [("lock", "locked"), ("suspend", "suspended")])
def test_administrators_lock_and_suspend(server: Server, alice: User, what: str, key: str) -> None:
    admin, bob = server.register(), server.register()
    make_admin(admin)
    path = f"/admin/{what}/{segment(bob.user_id)}"
    assert admin.get(path).ok() == {key: False}
    assert admin.put(path, {key: True}).ok() == {key: True}
    assert admin.get(path).ok() == {key: True}
    alice.get(path).refused(403, "M_FORBIDDEN")
    alice.get("/admin/lock/@nobody:test.example").refused(403, "M_FORBIDDEN")
    admin.get(f"/admin/{what}/@nobody:test.example").refused(404, "M_NOT_FOUND")
    admin.get(f"/admin/{what}/@far:away.example").refused(400, "M_INVALID_PARAM")
    admin.get(f"/admin/{what}/{segment(admin.user_id)}").refused(403, "M_FORBIDDEN")
    admin.put(path, {key: "yes"}).refused(400, "M_BAD_JSON")
    admin.put(path, {key: False}).ok()
    bob.get("/account/whoami").ok()


def test_capability_is_told_to_administrators_only(server: Server, alice: User) -> None:
    admin = server.register()
    make_admin(admin)
    name = "m.account_moderation"
    assert admin.get("/capabilities").ok()["capabilities"][name] == {"lock": True, "suspend": True}
    assert name not in alice.get("/capabilities").ok()["capabilities"]
