"""Relations between events: edits, reactions, threads, references."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.client import Answer, User, segment

Json = dict[str, Any]


def try_to_send(user: User, room_id: str, content: Json, type_: str = "m.room.message") -> Answer:
    """Send an event."""
    txn_id = f"t{next(user.server.numbers)}"
    return user.put(f"/rooms/{room_id}/send/{type_}/{txn_id}", content)


def send(user: User, room_id: str, body: str = "hello", **content: Any) -> str:
    """A message; its event ID."""
    answer = try_to_send(user, room_id, {"msgtype": "m.text", "body": body, **content})
    return str(answer.ok()["event_id"])


def relate(user: User, room_id: str, rel_type: str, parent: str, **more: Any) -> str:
    """A message that relates to another; its event ID."""
    relation = {"rel_type": rel_type, "event_id": parent}
    return send(user, room_id, rel_type, **{"m.relates_to": relation, **more})


def edit(user: User, room_id: str, parent: str, body: str = "better") -> str:
    """An edit of a message; its event ID."""
    return relate(user, room_id, "m.replace", parent, **{"m.new_content": {"body": body}})


def react(user: User, room_id: str, parent: str, key: str = "+") -> Answer:
    """A reaction to an event."""
    relation = {"rel_type": "m.annotation", "event_id": parent, "key": key}
    return try_to_send(user, room_id, {"m.relates_to": relation}, "m.reaction")


def redact(user: User, room_id: str, event_id: str) -> None:
    """Strip an event of its content."""
    path = f"/rooms/{room_id}/redact/{segment(event_id)}/t{next(user.server.numbers)}"
    user.put(path, {}).ok()


def room_of(*users: User) -> str:
    """A room with the users in it."""
    room_id = users[0].create_room(preset="public_chat")
    for user in users[1:]:
        user.post(f"/rooms/{room_id}/join").ok()
    return room_id


def event_of(user: User, room_id: str, event_id: str) -> Json:
    """An event as a user sees it."""
    return dict(user.get(f"/rooms/{room_id}/event/{segment(event_id)}").ok())


def bundle_of(user: User, room_id: str, event_id: str) -> Json:
    """What the children of an event add up to."""
    bundle: Json = event_of(user, room_id, event_id)["unsigned"].get("m.relations", {})
    return bundle


def children(user: User, room_id: str, event_id: str, *kind: str, **params: Any) -> Answer:
    """GET /relations"""
    path = "/".join(("relations", segment(event_id), *kind))
    return user.get(f"/_matrix/client/v1/rooms/{room_id}/{path}", **params)


def ids(events: list[Json]) -> list[str]:
    """Their event IDs."""
    return [event["event_id"] for event in events]


def threads(user: User, room_id: str, **params: Any) -> Json:
    """GET /threads"""
    return dict(user.get(f"/_matrix/client/v1/rooms/{room_id}/threads", **params).ok())


def ignore(user: User, ignored: User) -> None:
    """See nothing of somebody any more."""
    content: Json = {"ignored_users": {ignored.user_id: {}}}
    user.put(f"/user/{user.user_id}/account_data/m.ignored_user_list", content).ok()


# ---- children


def test_children_are_told_newest_first_and_by_kind(alice: User) -> None:
    room_id = room_of(alice)
    parent = send(alice, room_id)
    replies = [relate(alice, room_id, "m.thread", parent) for _ in range(3)]
    reaction = react(alice, room_id, parent).ok()["event_id"]
    told = children(alice, room_id, parent).ok()
    assert ids(told["chunk"]) == [reaction, *replies[::-1]]
    assert "next_batch" not in told
    assert "prev_batch" not in told
    assert "recursion_depth" not in told
    assert ids(children(alice, room_id, parent, "m.annotation").ok()["chunk"]) == [reaction]
    told = children(alice, room_id, parent, "m.thread", "m.room.message").ok()
    assert ids(told["chunk"]) == replies[::-1]
    assert children(alice, room_id, parent, "m.thread", "m.reaction").ok()["chunk"] == []
    assert children(alice, room_id, reaction).ok()["chunk"] == []


@pytest.mark.parametrize("direction", ["b", "f"])
def test_children_come_in_pages(alice: User, direction: str) -> None:
    room_id = room_of(alice)
    parent = send(alice, room_id)
    sent = [relate(alice, room_id, "m.thread", parent) for _ in range(5)]
    found: list[str] = []
    params: Json = {"limit": 2, "dir": direction}
    while True:
        page = children(alice, room_id, parent, **params).ok()
        found += ids(page["chunk"])
        if "next_batch" not in page:
            break
        params["from"] = page["next_batch"]
    assert found == (sent[::-1] if direction == "b" else sent)


def test_page_stops_at_the_to_token(alice: User) -> None:
    room_id = room_of(alice)
    parent = send(alice, room_id)
    relate(alice, room_id, "m.thread", parent)
    token = alice.get("/sync").ok()["next_batch"]
    late = relate(alice, room_id, "m.thread", parent)
    assert ids(children(alice, room_id, parent, to=token).ok()["chunk"]) == [late]


def test_indirect_children_are_told_when_asked_for(alice: User) -> None:
    room_id = room_of(alice)
    parent = send(alice, room_id)
    reply = relate(alice, room_id, "m.thread", parent)
    reaction = react(alice, room_id, reply).ok()["event_id"]
    third = relate(alice, room_id, "m.reference", reaction)
    fourth = relate(alice, room_id, "m.reference", third)
    told = children(alice, room_id, parent, recurse="true").ok()
    assert ids(told["chunk"]) == [third, reaction, reply]
    assert told["recursion_depth"] == 3
    told = children(alice, room_id, parent, "m.annotation", recurse="true").ok()
    assert ids(told["chunk"]) == [reaction]
    assert ids(children(alice, room_id, parent, recurse="false").ok()["chunk"]) == [reply]
    assert fourth not in ids(children(alice, room_id, parent, recurse="true").ok()["chunk"])


def test_parent_must_be_visible(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    parent = send(alice, room_id)
    children(bob, room_id, parent).refused(404, "M_NOT_FOUND")
    children(alice, room_id, "$nothing").refused(404, "M_NOT_FOUND")
    children(alice, bob.create_room(), parent).refused(404, "M_NOT_FOUND")


def test_hidden_children_are_not_told(alice: User, bob: User) -> None:
    room_id = room_of(alice, bob)
    content = {"history_visibility": "joined"}
    parent = send(alice, room_id)
    alice.put(f"/rooms/{room_id}/state/m.room.history_visibility", content).ok()
    bob.post(f"/rooms/{room_id}/leave").ok()
    relate(alice, room_id, "m.thread", parent)
    relate(alice, room_id, "m.reference", parent)
    edit(alice, room_id, parent)
    assert len(bundle_of(alice, room_id, parent)) == 3
    bob.post(f"/rooms/{room_id}/join").ok()
    assert bundle_of(bob, room_id, parent) == {}
    assert children(bob, room_id, parent).ok()["chunk"] == []
    assert threads(bob, room_id)["chunk"] == []
    seen = relate(alice, room_id, "m.thread", parent)
    assert bundle_of(bob, room_id, parent)["m.thread"]["count"] == 1
    assert ids(children(bob, room_id, parent).ok()["chunk"]) == [seen]


def test_redacted_children_are_no_children(alice: User) -> None:
    room_id = room_of(alice)
    parent = send(alice, room_id)
    reply = relate(alice, room_id, "m.thread", parent)
    better = edit(alice, room_id, parent)
    for event_id in (reply, better):
        redact(alice, room_id, event_id)
    assert children(alice, room_id, parent).ok()["chunk"] == []
    assert bundle_of(alice, room_id, parent) == {}
    assert threads(alice, room_id)["chunk"] == []


def test_children_of_ignored_users_are_left_out(alice: User, bob: User) -> None:
    room_id = room_of(alice, bob)
    parent = send(alice, room_id)
    for user in (alice, bob):
        relate(user, room_id, "m.thread", parent)
    assert bundle_of(alice, room_id, parent)["m.thread"]["count"] == 2
    ignore(alice, bob)
    bundle = bundle_of(alice, room_id, parent)["m.thread"]
    assert bundle["count"] == 1
    assert bundle["latest_event"]["sender"] == alice.user_id
    assert len(children(alice, room_id, parent).ok()["chunk"]) == 1


# ---- bundles


def test_newest_valid_edit_is_told_with_the_event(alice: User, bob: User) -> None:
    room_id = room_of(alice, bob)
    event_id = send(alice, room_id, "original")
    edit(alice, room_id, event_id, "first")
    last = edit(alice, room_id, event_id, "second")
    edit(bob, room_id, event_id, "somebody else's")
    relate(alice, room_id, "m.replace", event_id)  # without new content
    event = event_of(bob, room_id, event_id)
    assert event["content"]["body"] == "original"
    replacement = event["unsigned"]["m.relations"]["m.replace"]
    assert replacement["event_id"] == last
    assert replacement["content"]["m.new_content"] == {"body": "second"}
    assert replacement["room_id"] == room_id
    redact(alice, room_id, last)
    replacement = bundle_of(bob, room_id, event_id)["m.replace"]
    assert replacement["content"]["m.new_content"] == {"body": "first"}
    redact(alice, room_id, event_id)
    assert bundle_of(bob, room_id, event_id) == {}


def test_transaction_id_of_an_edit_is_shown_to_the_sending_device_only(
    alice: User, bob: User
) -> None:
    room_id = room_of(alice, bob)
    event_id = send(alice, room_id, "original")
    edit(alice, room_id, event_id, "edited")
    for user, is_told in ((alice, True), (bob, False), (alice.log_in_again(), False)):
        replacement = bundle_of(user, room_id, event_id)["m.replace"]
        assert ("transaction_id" in replacement["unsigned"]) is is_told


def test_edits_of_edits_and_of_state_count_for_nothing(alice: User) -> None:
    room_id = room_of(alice)
    first = edit(alice, room_id, send(alice, room_id))
    edit(alice, room_id, first)
    assert bundle_of(alice, room_id, first) == {}
    path = f"/rooms/{room_id}/state/m.room.topic"
    topic = alice.put(path, {"topic": "t"}).ok()["event_id"]
    relation = {"rel_type": "m.replace", "event_id": topic}
    content = {"m.relates_to": relation, "m.new_content": {"topic": "u"}}
    try_to_send(alice, room_id, content, "m.room.topic").ok()
    assert bundle_of(alice, room_id, topic) == {}


def test_encrypted_edits_cannot_be_looked_into(alice: User) -> None:
    room_id = room_of(alice)
    secret = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "…"}
    event_id = try_to_send(alice, room_id, secret, "m.room.encrypted").ok()["event_id"]
    relation = {"rel_type": "m.replace", "event_id": event_id}
    content = {**secret, "m.relates_to": relation}
    last = try_to_send(alice, room_id, content, "m.room.encrypted").ok()["event_id"]
    assert bundle_of(alice, room_id, event_id)["m.replace"]["event_id"] == last


def test_thread_is_summed_up_with_its_root(alice: User, bob: User) -> None:
    room_id = room_of(alice, bob)
    root = send(alice, room_id)
    for user in (alice, bob):
        relate(user, room_id, "m.thread", root)
    last = relate(alice, room_id, "m.thread", root)
    edit(alice, room_id, last, "of the latest")
    carol = alice.server.register()
    carol.post(f"/rooms/{room_id}/join").ok()
    for user, participated in ((alice, True), (bob, True), (carol, False)):
        thread = bundle_of(user, room_id, root)["m.thread"]
        assert thread["count"] == 3
        assert thread["current_user_participated"] is participated
        latest = thread["latest_event"]
        assert latest["event_id"] == last
        replacement = latest["unsigned"]["m.relations"]["m.replace"]
        assert replacement["content"]["m.new_content"]["body"] == "of the latest"


def test_references_are_listed_and_reactions_are_not(alice: User) -> None:
    room_id = room_of(alice)
    event_id = send(alice, room_id)
    references = [relate(alice, room_id, "m.reference", event_id) for _ in range(2)]
    react(alice, room_id, event_id).ok()
    chunk = [{"event_id": reference} for reference in references]
    assert bundle_of(alice, room_id, event_id) == {"m.reference": {"chunk": chunk}}


def test_bundles_come_with_every_way_of_reading(alice: User) -> None:
    room_id = room_of(alice)
    event_id = send(alice, room_id, "findable")
    relate(alice, room_id, "m.reference", event_id)
    fresh = alice.get("/sync", filter=json.dumps({"room": {"timeline": {"limit": 3}}})).ok()
    timeline = fresh["rooms"]["join"][room_id]["timeline"]
    assert timeline["limited"]
    context = alice.get(f"/rooms/{room_id}/context/{segment(event_id)}").ok()
    found = [
        *alice.get(f"/rooms/{room_id}/messages", dir="b").ok()["chunk"],
        *timeline["events"],
        context["event"],
    ]
    bundles = [e["unsigned"]["m.relations"] for e in found if e["event_id"] == event_id]
    assert [list(bundle) for bundle in bundles] == [["m.reference"]] * 3


def test_child_in_another_room_belongs_to_nobody(alice: User) -> None:
    room_id, elsewhere = room_of(alice), room_of(alice)
    event_id = send(alice, room_id)
    relate(alice, elsewhere, "m.reference", event_id)
    assert bundle_of(alice, room_id, event_id) == {}
    assert children(alice, room_id, event_id).ok()["chunk"] == []


@pytest.mark.parametrize(
    "relation",
    [
        "text",
        {"rel_type": 7, "event_id": "$a"},
        {"rel_type": "m.thread"},
        {"rel_type": "m.thread", "event_id": ["$a"]},
        {"rel_type": "x" * 300, "event_id": "$a"},
        {"rel_type": "\0", "event_id": "\0"},
        {"m.in_reply_to": {"event_id": "$a"}},
    ],
)
def test_relations_without_form_are_ignored(alice: User, relation: Any) -> None:
    room_id = room_of(alice)
    event_id = send(alice, room_id, **{"m.relates_to": relation})
    assert event_of(alice, room_id, event_id)["content"]["m.relates_to"] == relation


# ---- threads


def test_threads_are_listed_by_what_was_said_last(alice: User, bob: User) -> None:
    room_id = room_of(alice, bob)
    roots = [send(alice, room_id, str(number)) for number in range(4)]
    for root in roots:
        relate(bob, room_id, "m.thread", root)
    last = relate(alice, room_id, "m.thread", roots[0])
    expected = [roots[0], roots[3], roots[2], roots[1]]
    page = threads(alice, room_id)
    assert ids(page["chunk"]) == expected
    assert "next_batch" not in page
    assert page["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"] == 2
    page = threads(alice, room_id, limit=3)
    assert ids(page["chunk"]) == expected[:3]
    page = threads(alice, room_id, limit=3, **{"from": page["next_batch"]})
    assert ids(page["chunk"]) == expected[3:]
    redact(alice, room_id, last)
    assert ids(threads(alice, room_id)["chunk"]) == roots[::-1]


def test_threads_can_be_those_that_one_wrote_in(alice: User, bob: User) -> None:
    room_id = room_of(alice, bob)
    begun, written_in, other = (send(user, room_id) for user in (bob, alice, alice))
    for root in (begun, written_in, other):
        relate(alice, room_id, "m.thread", root)
    relate(bob, room_id, "m.thread", written_in)
    told = threads(bob, room_id, include="participated")["chunk"]
    assert ids(told) == [written_in, begun]
    assert all(
        event["unsigned"]["m.relations"]["m.thread"]["current_user_participated"] for event in told
    )


def test_root_of_an_ignored_user_is_shown_without_content(alice: User, bob: User) -> None:
    room_id = room_of(alice, bob)
    root = send(bob, room_id, "secret")
    relate(alice, room_id, "m.thread", root)
    ignore(alice, bob)
    (told,) = threads(alice, room_id)["chunk"]
    assert (told["event_id"], told["content"]) == (root, {})


def test_threads_of_closed_rooms_are_forbidden(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    bob.get(f"/_matrix/client/v1/rooms/{room_id}/threads").refused(403, "M_FORBIDDEN")


# ---- what may not be sent


def test_no_thread_begins_at_an_event_that_relates_to_another(alice: User) -> None:
    room_id = room_of(alice)
    reply = relate(alice, room_id, "m.thread", send(alice, room_id))
    relation = {"rel_type": "m.thread", "event_id": reply}
    try_to_send(alice, room_id, {"m.relates_to": relation}).refused(400, "M_UNKNOWN")


def test_same_annotation_is_refused_the_second_time(alice: User, bob: User) -> None:
    room_id = room_of(alice, bob)
    event_id = send(alice, room_id)
    first = react(alice, room_id, event_id).ok()["event_id"]
    react(alice, room_id, event_id).refused(400, "M_DUPLICATE_ANNOTATION")
    relation = {"rel_type": "m.annotation", "event_id": event_id, "key": "+"}
    state = {"m.relates_to": relation}
    alice.put(f"/rooms/{room_id}/state/m.reaction/x", state).refused(400, "M_DUPLICATE_ANNOTATION")
    alice.put(f"/rooms/{room_id}/state/org.example/x", state).ok()
    alice.put(f"/rooms/{room_id}/state/org.example/x", state).ok()
    react(alice, room_id, event_id, "-").ok()
    react(bob, room_id, event_id).ok()
    redact(alice, room_id, first)
    react(alice, room_id, event_id).ok()


def test_repeated_request_for_an_annotation_is_answered_as_before(alice: User) -> None:
    room_id = room_of(alice)
    relation = {"rel_type": "m.annotation", "event_id": send(alice, room_id), "key": "+"}
    path = f"/rooms/{room_id}/send/m.reaction/same"
    first = alice.put(path, {"m.relates_to": relation}).ok()
    assert alice.put(path, {"m.relates_to": relation}).ok() == first


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("relations/$a", {"dir": "x"}),
        ("relations/$a", {"from": "x"}),
        ("relations/$a", {"recurse": "x"}),
        ("relations/$a", {"limit": "0"}),
        ("relations/$a/%00", {}),
        ("threads", {"include": "x"}),
        ("threads", {"from": "x"}),
        ("threads", {"limit": "0"}),
    ],
)
def test_bad_parameters_are_refused(alice: User, path: str, params: Json) -> None:
    room_id = room_of(alice)
    alice.get(f"/_matrix/client/v1/rooms/{room_id}/{path}", **params).refused(
        400, "M_INVALID_PARAM"
    )
