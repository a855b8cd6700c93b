"""Unread counts in /sync: what notifies whom, and what reading does to it."""

from __future__ import annotations

import json
from random import Random  # noqa: TID251 - seeded, and the seed is the test's parameter
from typing import Any

import pytest

from architex.domain.push_evaluation import PushEvaluator, RoomContext
from architex.domain.push_rules import effective_push_rules, parse_push_rule
from tests.api.client import User, segment
from tests.api.test_receipts import receipt_path, related, send

BY_THREAD = json.dumps({"room": {"timeline": {"unread_thread_notifications": True}}})


def unread(user: User, room_id: str, **params: Any) -> dict[str, Any]:
    """What an initial sync says of a room."""
    response = user.get("/sync", **params).ok()
    room: dict[str, Any] = response["rooms"]["join"][room_id]
    return room


def counts(user: User, room_id: str) -> tuple[int, int]:
    told = unread(user, room_id)["unread_notifications"]
    return told["notification_count"], told["highlight_count"]


def notifications(user: User, room_id: str, **params: Any) -> list[dict[str, Any]]:
    """Those that /notifications lists of a room."""
    told = user.get("/notifications", **params).ok()["notifications"]
    return [one for one in told if one["room_id"] == room_id]


def mention(*user_ids: str) -> dict[str, Any]:
    return {"m.mentions": {"user_ids": list(user_ids)}}


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{room_id}/join", {}).ok()
    return room_id


def test_messages_of_others_count_until_they_are_read(
    alice: User, bob: User, room_id: str
) -> None:
    send(bob, room_id)
    last = send(bob, room_id, **mention(alice.user_id))
    assert counts(alice, room_id) == (2, 1)
    assert counts(bob, room_id) == (0, 0)
    alice.post(receipt_path(room_id, last), {}).ok()
    assert counts(alice, room_id) == (0, 0)
    send(bob, room_id)
    assert counts(alice, room_id) == (1, 0)


def test_who_speaks_has_read_what_was_said_before(alice: User, bob: User, room_id: str) -> None:
    root = send(bob, room_id)
    send(bob, room_id, **related("m.thread", root), **mention(alice.user_id))
    since = alice.get("/sync").ok()["next_batch"]
    send(alice, room_id)
    told = unread(alice, room_id, since=since, filter=BY_THREAD)
    assert told["unread_notifications"] == {"notification_count": 0, "highlight_count": 0}
    assert told["unread_thread_notifications"][root]["highlight_count"] == 1
    read = {n["event"]["event_id"]: n["read"] for n in notifications(alice, room_id)}
    assert read.pop(root)
    assert list(read.values()) == [False]
    send(alice, room_id, **related("m.thread", root))
    assert "unread_thread_notifications" not in unread(alice, room_id, filter=BY_THREAD)
    assert all(n["read"] for n in notifications(alice, room_id))
    send(bob, room_id)
    assert counts(alice, room_id) == (1, 0)
    # A name, or a redaction, says nothing about what its sender has read.
    alice.put(f"/rooms/{room_id}/state/m.room.topic", {"topic": "x"}).ok()
    alice.put(f"/rooms/{room_id}/redact/{send(bob, room_id)}/1", {}).ok()
    assert counts(alice, room_id) == (1, 0)


def test_changed_predefined_rules_change_what_counts(alice: User, bob: User, room_id: str) -> None:
    send(bob, room_id, msgtype="m.notice")
    send(bob, room_id)
    assert counts(alice, room_id) == (1, 0)
    rules = "/pushrules/global"
    alice.put(f"{rules}/override/.m.rule.suppress_notices/enabled", {"enabled": False}).ok()
    assert counts(alice, room_id) == (2, 0)
    loud = {"actions": ["notify", {"set_tweak": "highlight"}]}
    alice.put(f"{rules}/underride/.m.rule.room_one_to_one/actions", loud).ok()
    assert counts(alice, room_id) == (2, 2)
    assert len(notifications(alice, room_id, only="highlight")) == 2


def test_in_a_loud_room_everything_counts(alice: User, bob: User, room_id: str) -> None:
    other = bob.create_room(preset="public_chat")
    alice.post(f"/rooms/{other}/join", {}).ok()
    path = f"/pushrules/global/room/{segment(room_id)}"
    alice.put(path, {"actions": ["notify", {"set_tweak": "highlight"}]}).ok()
    for where in (room_id, other):
        send(bob, where)
        bob.put(f"/rooms/{where}/send/m.sticker/1", {"body": "x", "info": {}, "url": "mxc://x/y"})
        send(bob, where, msgtype="m.notice")
    assert counts(alice, room_id) == (2, 2)
    assert counts(alice, other) == (1, 0)


def test_rules_may_ask_for_the_name_of_their_user(alice: User, bob: User, room_id: str) -> None:
    rule = {
        "actions": ["notify", {"set_tweak": "highlight"}],
        "conditions": [{"kind": "contains_display_name"}],
    }
    alice.put("/pushrules/global/override/name", rule).ok()
    member = {"membership": "join", "displayname": "Wonder [x]"}
    alice.put(f"/rooms/{room_id}/state/m.room.member/{alice.path}", member).ok()
    send(bob, room_id, body="is wonder [x] here?")
    send(bob, room_id, body="no wonder x")
    assert counts(alice, room_id) == (2, 1)


def test_what_belongs_to_an_event_of_a_thread_counts_there(
    alice: User, bob: User, room_id: str
) -> None:
    root = send(bob, room_id)
    reply = send(bob, room_id, **related("m.thread", root))
    about = send(bob, room_id, **related("m.reference", reply))
    further = send(bob, room_id, **related("m.reference", about))
    send(bob, room_id, **related("m.reference", root))
    told = unread(alice, room_id, filter=BY_THREAD)
    assert told["unread_notifications"]["notification_count"] == 2
    assert told["unread_thread_notifications"][root]["notification_count"] == 3
    alice.post(receipt_path(room_id, further), {"thread_id": root}).ok()
    assert "unread_thread_notifications" not in unread(alice, room_id, filter=BY_THREAD)


def test_redacted_messages_do_not_count(alice: User, bob: User, room_id: str) -> None:
    plain, mentioning = send(bob, room_id), send(bob, room_id, **mention(alice.user_id))
    send(bob, room_id)
    assert counts(alice, room_id) == (3, 1)
    for number, (event_id, left) in enumerate(((mentioning, (2, 0)), (plain, (1, 0)))):
        bob.put(f"/rooms/{room_id}/redact/{event_id}/{number}", {}).ok()
        assert counts(alice, room_id) == left
        told = alice.get("/notifications").ok()["notifications"]
        ours = [n for n in told if n["room_id"] == room_id]
        assert sum(n["event"]["type"] == "m.room.message" for n in ours) == left[0]


def test_what_happened_before_joining_does_not_count(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    send(alice, room_id)
    bob.post(f"/rooms/{room_id}/join", {}).ok()
    assert counts(bob, room_id) == (0, 0)


def test_private_receipt_counts_as_reading(alice: User, bob: User, room_id: str) -> None:
    event_id = send(bob, room_id)
    alice.post(receipt_path(room_id, event_id, "m.read.private"), {}).ok()
    assert counts(alice, room_id) == (0, 0)


def test_notices_edits_and_joins_do_not_count(alice: User, bob: User, room_id: str) -> None:
    event_id = send(bob, room_id)
    send(bob, room_id, **related("m.replace", event_id))
    send(bob, room_id, msgtype="m.notice")
    bob.put(f"/rooms/{room_id}/send/m.reaction/r1", related("m.annotation", event_id)).ok()
    assert counts(alice, room_id) == (1, 0)


def test_room_mention_stands_out_only_from_the_mighty(
    alice: User, bob: User, room_id: str
) -> None:
    send(bob, room_id, **{"m.mentions": {"room": True}})
    assert counts(alice, room_id) == (1, 0)
    send(alice, room_id, **{"m.mentions": {"room": True}})
    assert counts(bob, room_id) == (1, 1)


def test_muted_room_counts_nothing(alice: User, bob: User, room_id: str) -> None:
    send(bob, room_id)
    alice.put(f"/pushrules/global/room/{segment(room_id)}", {"actions": []}).ok()
    assert counts(alice, room_id) == (0, 0)
    send(bob, room_id, **mention(alice.user_id))
    assert counts(alice, room_id) == (1, 1)


def test_messages_of_ignored_users_do_not_count(alice: User, bob: User, room_id: str) -> None:
    send(bob, room_id)
    path = f"/user/{segment(alice.user_id)}/account_data/m.ignored_user_list"
    alice.put(path, {"ignored_users": {bob.user_id: {}}}).ok()
    assert counts(alice, room_id) == (0, 0)


def test_threads_are_counted_by_themselves_if_asked_for(
    alice: User, bob: User, room_id: str
) -> None:
    root = send(bob, room_id)
    reply = send(bob, room_id, **related("m.thread", root), **mention(alice.user_id))
    assert counts(alice, room_id) == (2, 1)
    told = unread(alice, room_id, filter=BY_THREAD)
    assert told["unread_notifications"] == {"notification_count": 1, "highlight_count": 0}
    assert told["unread_thread_notifications"] == {
        root: {"notification_count": 1, "highlight_count": 1}
    }
    alice.post(receipt_path(room_id, reply), {"thread_id": root}).ok()
    told = unread(alice, room_id, filter=BY_THREAD)
    assert told["unread_notifications"]["notification_count"] == 1
    assert "unread_thread_notifications" not in told
    alice.post(receipt_path(room_id, root), {"thread_id": "main"}).ok()
    assert counts(alice, room_id) == (0, 0)


def test_reading_on_another_device_is_told_at_once(alice: User, bob: User, room_id: str) -> None:
    event_id = send(bob, room_id)
    since = alice.get("/sync").ok()["next_batch"]
    alice.post(receipt_path(room_id, event_id, "m.read.private"), {}).ok()
    told = unread(alice, room_id, since=since)
    assert told["unread_notifications"]["notification_count"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_a_recomputation_from_scratch(
    alice: User, bob: User, room_id: str, seed: int
) -> None:
    random = Random(seed)  # noqa: S311 - nothing secret
    events: list[tuple[str, str, dict[str, Any]]] = []  # event ID, thread, content
    read: dict[str, int] = {}
    rules: dict[tuple[str, str], dict[str, Any]] = {}
    since = alice.get("/sync", filter=BY_THREAD).ok()["next_batch"]

    def expected() -> dict[str, list[int]]:
        changed = [parse_push_rule(*key, body) for key, body in rules.items()]
        evaluator = PushEvaluator(effective_push_rules(alice.user_id, changed))
        told: dict[str, list[int]] = {"main": [0, 0]}
        for number, (_, thread, content) in enumerate(events):
            if number <= max(read.get("", -1), read.get(thread, -1)):
                continue
            event = {
                "type": "m.room.message",
                "sender": bob.user_id,
                "room_id": room_id,
                "content": content,
            }
            outcome = evaluator.evaluate(event, RoomContext(2, lambda key: False))
            count = told.setdefault(thread, [0, 0])
            count[0] += outcome.notifies
            count[1] += outcome.highlights
        return {thread: count for thread, count in told.items() if thread == "main" or count[0]}

    for _ in range(40):
        what = random.choice(["send"] * 6 + ["read", "speak", "mute", "keyword"])
        if what == "send":
            content: dict[str, Any] = {
                "msgtype": random.choice(["m.text", "m.text", "m.notice"]),
                "body": random.choice(["hello", "cake", "pancakes"]),
            }
            if random.random() < 0.3:
                content |= mention(random.choice([alice.user_id, bob.user_id]))
            thread = "main"
            roots = [event_id for event_id, _, said in events if "m.relates_to" not in said]
            if roots and random.random() < 0.4:
                thread = random.choice(roots)
                content |= related("m.thread", thread)
            elif events and random.random() < 0.3:
                parent, thread, _ = random.choice(events)
                content |= related("m.reference", parent)
            events.append((send(bob, room_id, **content), thread, content))
        elif what == "read" and events:
            number = random.randrange(len(events))
            event_id, thread, _ = events[number]
            told_thread = random.choice(["", thread])
            body = {"thread_id": told_thread} if told_thread else {}
            alice.post(receipt_path(room_id, event_id), body).ok()
            read[told_thread] = max(number, read.get(told_thread, -1))
        elif what == "speak" and events:
            _, thread, _ = random.choice(events)
            send(alice, room_id, **({} if thread == "main" else related("m.thread", thread)))
            read[thread] = len(events) - 1
        elif what == "mute":
            rules[("room", room_id)] = {"actions": random.choice([[], ["notify"]])}
            path = f"/pushrules/global/room/{segment(room_id)}"
            alice.put(path, rules["room", room_id]).ok()
        elif what == "keyword":
            key = ("content", "cake")
            if rules.pop(key, None) is None:
                rules[key] = {"pattern": "cake", "actions": ["notify", {"set_tweak": "highlight"}]}
                alice.put("/pushrules/global/content/cake", rules[key]).ok()
            else:
                alice.delete("/pushrules/global/content/cake").ok()
        response = alice.get("/sync", since=since, filter=BY_THREAD).ok()
        since = response["next_batch"]
        room = response["rooms"]["join"].get(room_id)
        if room is None:
            continue
        told = {"main": list(room["unread_notifications"].values())}
        for thread, count in room.get("unread_thread_notifications", {}).items():
            told[thread] = list(count.values())
        assert told == expected()


def test_notifications_are_listed_newest_first_and_page_by_page(
    alice: User, bob: User, room_id: str
) -> None:
    other = bob.create_room(preset="public_chat")
    alice.post(f"/rooms/{other}/join", {}).ok()
    sent = [send(bob, random_room) for random_room in (room_id, other, room_id)]
    send(bob, room_id, msgtype="m.notice")
    sent.append(send(bob, other, **mention(alice.user_id)))
    alice.post(receipt_path(room_id, sent[0]), {}).ok()
    page = alice.get("/notifications", limit=3).ok()
    listed = page["notifications"]
    assert [n["event"]["event_id"] for n in listed] == sent[:0:-1]
    assert [n["room_id"] for n in listed] == [other, room_id, other]
    assert listed[0]["actions"][0] == "notify"
    assert not any(n["read"] for n in listed)
    page = alice.get("/notifications", **{"from": page["next_token"]}).ok()
    assert [(n["event"]["event_id"], n["read"]) for n in page["notifications"]] == [
        (sent[0], True)
    ]
    assert "next_token" not in page
    only = alice.get("/notifications", only="highlight").ok()["notifications"]
    assert [n["event"]["event_id"] for n in only] == [sent[3]]


def test_notifications_stay_when_the_room_is_left_and_invites_are_some(
    alice: User, bob: User, room_id: str
) -> None:
    first = send(bob, room_id)
    alice.put(f"/profile/{alice.path}/displayname", {"displayname": "Wonder"}).ok()
    second = send(bob, room_id)
    alice.post(f"/rooms/{room_id}/leave", {}).ok()
    send(bob, room_id)
    bob.post(f"/rooms/{room_id}/invite", {"user_id": alice.user_id}).ok()
    told = notifications(alice, room_id)
    assert told[0]["event"]["content"]["membership"] == "invite"
    assert told[0]["event"]["unsigned"]["membership"] == "invite"
    assert [n["event"]["event_id"] for n in told[1:]] == [second, first]
    alice.post(f"/rooms/{room_id}/join", {}).ok()
    third = send(bob, room_id)
    invite = told[0]["event"]["event_id"]
    ids = [n["event"]["event_id"] for n in notifications(alice, room_id)]
    assert ids == [third, invite, second, first]
    page = alice.get("/notifications", limit=2).ok()
    rest = alice.get("/notifications", limit=2, **{"from": page["next_token"]}).ok()
    paged = [n["event"]["event_id"] for n in page["notifications"] + rest["notifications"]]
    assert paged == ids
    alice.post(f"/rooms/{room_id}/leave", {}).ok()
    alice.post(f"/rooms/{room_id}/forget", {}).ok()
    assert notifications(alice, room_id) == []


def test_invites_of_ignored_users_are_no_notifications(alice: User, bob: User) -> None:
    path = f"/user/{segment(alice.user_id)}/account_data/m.ignored_user_list"
    alice.put(path, {"ignored_users": {bob.user_id: {}}}).ok()
    bob.create_room(invite=[alice.user_id])
    assert alice.get("/notifications").ok()["notifications"] == []
