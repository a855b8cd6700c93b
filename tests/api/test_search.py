"""Searching: by words, in the rooms and the history that one may see."""

from __future__ import annotations

from typing import Any

import pytest

from architex.api.client.search import MAX_CONTEXT
from tests.api.client import User
from tests.api.test_receipts import send


def search(user: User, term: str, next_batch: str | None = None, **criteria: Any) -> Any:
    """The results, with everything that was sent before."""
    body = {"search_categories": {"room_events": {"search_term": term, **criteria}}}
    params = {} if next_batch is None else {"next_batch": next_batch}
    return user.post("/search", body, **params).ok()["search_categories"]["room_events"]


def ids(results: Any) -> list[str]:
    return [result["result"]["event_id"] for result in results["results"]]


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    room_id = alice.create_room(preset="public_chat", name="Bakers", topic="All about bread")
    bob.post(f"/rooms/{room_id}/join", {}).ok()
    return room_id


def test_messages_are_found_by_their_words(alice: User, bob: User, room_id: str) -> None:
    event_id = send(bob, room_id, body="The quick brown fox")
    send(bob, room_id, body="A lazy dog")
    results = search(alice, "FOX quick")
    assert ids(results) == [event_id]
    assert results["count"] == 1
    assert results["highlights"] == ["fox", "quick"]
    assert results["results"][0]["result"]["room_id"] == room_id
    assert ids(search(alice, '"quick fox"')) == []
    assert ids(search(alice, '"brown fox"')) == [event_id]
    assert ids(search(alice, "the -fox")) == []


def test_names_and_topics_are_found_if_asked_for(alice: User, room_id: str) -> None:
    event_id = send(alice, room_id, body="bread")
    assert set(ids(search(alice, "bread"))) > {event_id}
    assert ids(search(alice, "bread", keys=["content.body"])) == [event_id]
    assert ids(search(alice, "bakers", keys=["content.topic"])) == []
    assert len(ids(search(alice, "bakers", keys=["content.name"]))) == 1


def test_nobody_finds_what_they_may_not_see(alice: User, bob: User, room_id: str) -> None:
    secret = alice.create_room()
    send(alice, secret, body="secret recipe")
    assert ids(search(bob, "recipe")) == []
    alice.put(
        f"/rooms/{room_id}/state/m.room.history_visibility", {"history_visibility": "joined"}
    ).ok()
    bob.post(f"/rooms/{room_id}/leave", {}).ok()
    send(alice, room_id, body="while bob was away: recipe")
    bob.post(f"/rooms/{room_id}/join", {}).ok()
    seen = send(alice, room_id, body="bob is back: recipe")
    assert ids(search(bob, "recipe")) == [seen]
    assert len(ids(search(alice, "recipe"))) == 3


def test_redacted_message_is_found_no_more(alice: User, room_id: str) -> None:
    event_id = send(alice, room_id, body="regrettable")
    assert ids(search(alice, "regrettable")) == [event_id]
    alice.put(f"/rooms/{room_id}/redact/{event_id}/r1", {}).ok()
    assert ids(search(alice, "regrettable")) == []
    rows = alice.server.core.database.fetch_all(
        "SELECT words FROM message_search WHERE words::text LIKE '%%regrettable%%'"
    )
    assert rows == []


def test_newest_come_first_page_by_page(alice: User, bob: User, room_id: str) -> None:
    sent = [send(bob, room_id, body=f"page {n}") for n in range(7)]
    found: list[str] = []
    next_batch = None
    for _ in range(10):
        results = search(
            alice,
            "page",
            next_batch,
            order_by="recent",
            filter={"limit": 3},
            keys=["content.body"],
        )
        found += ids(results)
        next_batch = results.get("next_batch")
        if next_batch is None:
            break
    assert found == sent[::-1]


def test_best_come_first_page_by_page(alice: User, room_id: str) -> None:
    once = send(alice, room_id, body="cake and many other words that are not about it")
    thrice = send(alice, room_id, body="cake cake cake")
    first = search(alice, "cake", filter={"limit": 1})
    assert ids(first) == [thrice]
    assert ids(search(alice, "cake", first["next_batch"], filter={"limit": 1})) == [once]


def test_filter_holds(alice: User, bob: User, room_id: str) -> None:
    other = alice.create_room()
    by_alice, by_bob = send(alice, room_id, body="word"), send(bob, room_id, body="word")
    elsewhere = send(alice, other, body="word")
    assert set(ids(search(alice, "word"))) == {by_alice, by_bob, elsewhere}
    assert set(ids(search(alice, "word", filter={"rooms": [other]}))) == {elsewhere}
    assert set(ids(search(alice, "word", filter={"senders": [bob.user_id]}))) == {by_bob}
    assert ids(search(alice, "word", filter={"types": ["m.room.topic"]})) == []


def test_results_come_with_their_surroundings(alice: User, room_id: str) -> None:
    sent = [send(alice, room_id, body=f"around {n}") for n in range(9)]
    hit = send(alice, room_id, body="needle")
    later = [send(alice, room_id, body="after") for _ in range(3)]
    results = search(
        alice,
        "needle",
        event_context={"before_limit": 2, "after_limit": 1, "include_profile": True},
    )
    context = results["results"][0]["context"]
    assert ids(results) == [hit]
    assert [e["event_id"] for e in context["events_before"]] == [sent[8], sent[7]]
    assert [e["event_id"] for e in context["events_after"]] == [later[0]]
    assert set(context["profile_info"]) == {alice.user_id}


def test_surroundings_of_results_are_bounded(alice: User, room_id: str) -> None:
    sent = [send(alice, room_id, body=f"around {n}") for n in range(MAX_CONTEXT + 5)]
    send(alice, room_id, body="pin")
    many = {"before_limit": 2**53 - 1, "after_limit": 2**53 - 1}
    (result,) = search(alice, "pin", event_context=many, filter={"limit": 2**53 - 1})["results"]
    assert len(result["context"]["events_before"]) == MAX_CONTEXT < len(sent)


def test_results_are_grouped(alice: User, bob: User, room_id: str) -> None:
    by_alice, by_bob = send(alice, room_id, body="word"), send(bob, room_id, body="word")
    results = search(
        alice, "word", groupings={"group_by": [{"key": "sender"}]}, include_state=True
    )
    groups = results["groups"]["sender"]
    assert groups[alice.user_id]["results"] == [by_alice]
    assert groups[bob.user_id]["results"] == [by_bob]
    assert any(event["type"] == "m.room.create" for event in results["state"][room_id])


@pytest.mark.parametrize("term", ["", "'", "\x00", "a & | !", "((", "%", "x" * 5000, "-only"])
def test_odd_terms_do_no_harm(alice: User, room_id: str, term: str) -> None:
    send(alice, room_id, body="anything")
    search(alice, term)


@pytest.mark.parametrize(
    "criteria",
    [
        {"keys": ["content.secret"]},
        {"order_by": "random"},
        {"filter": {"limit": 0}},
        {"event_context": {"before_limit": -1}},
    ],
)
def test_bad_criteria_are_refused(alice: User, criteria: dict[str, Any]) -> None:
    body = {"search_categories": {"room_events": {"search_term": "x", **criteria}}}
    assert alice.post("/search", body).status == 400


def test_room_that_was_upgraded_is_searched_with_the_one_before(alice: User) -> None:
    old = alice.create_room(room_version="10")
    before = send(alice, old, body="sourdough before")
    upgrade = alice.post(f"/rooms/{old}/upgrade", {"new_version": "11"}).ok()
    new = upgrade["replacement_room"]
    after = send(alice, new, body="sourdough after")
    send(alice, alice.create_room(), body="sourdough elsewhere")
    found = ids(search(alice, "sourdough", filter={"rooms": [new]}))
    assert sorted(found) == sorted([before, after])
    assert ids(search(alice, "sourdough", filter={"rooms": [old]})) == [before]
    only = {"rooms": [new], "not_rooms": [old]}
    assert ids(search(alice, "sourdough", filter=only)) == [after]


def test_encrypted_rooms_are_not_searched(alice: User, room_id: str) -> None:
    send(alice, room_id, body="sourdough")
    assert search(alice, "sourdough")["count"] == 1
    path = f"/rooms/{room_id}/state/m.room.encryption"
    alice.put(path, {"algorithm": "m.megolm.v1.aes-sha2"}).ok()
    assert search(alice, "sourdough")["count"] == 0


def test_topics_are_found_by_what_either_field_says(alice: User, room_id: str) -> None:
    texts = [{"body": "<b>rye</b>", "mimetype": "text/html"}, {"body": "baguettes"}]
    content = {"topic": "spelt", "m.topic": {"m.text": texts}}
    path = f"/rooms/{room_id}/state/m.room.topic"
    event_id = alice.put(path, content).ok()["event_id"]
    for word in ("spelt", "baguettes"):
        assert ids(search(alice, word, keys=["content.topic"])) == [event_id]
    assert ids(search(alice, "rye")) == []
