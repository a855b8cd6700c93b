"""Room: decides by the rules, and evolves by its facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from architex.domain.errors import Forbidden, InvalidCanonicalJson, TooLarge
from architex.domain.room.aggregate import (
    MAX_KNOWN_ENTRIES,
    MAX_PREV_EVENTS,
    EventDraft,
    Extremity,
    Room,
    Signer,
    compose_create_event,
    project_room,
)
from architex.domain.room.events import Fact, PduAccepted, PduRejected
from architex.domain.room_versions import ROOM_VERSIONS, get_room_version
from architex.domain.signing import SigningKey

SIGNER = Signer("example.org", SigningKey.from_seed(b"k" * 32, "1"))
ALICE = "@alice:example.org"
BOB = "@bob:example.org"
NOW = 1_700_000_000_000


def _member(user_id: str, membership: str = "join", sender: str | None = None) -> EventDraft:
    return EventDraft("m.room.member", sender or user_id, {"membership": membership}, user_id)


def _message(sender: str = ALICE, body: str = "hello") -> EventDraft:
    return EventDraft("m.room.message", sender, {"body": body})


class Story:
    """A room and the facts that made it."""

    def __init__(self, version: str = "11") -> None:
        rules = get_room_version(version)
        content = {"room_version": version}
        if not rules.creator_is_sender:
            content["creator"] = ALICE
        create = compose_create_event(
            rules,
            EventDraft("m.room.create", ALICE, content, ""),
            SIGNER,
            NOW,
            opaque_id="room",
        )
        self.facts: list[Fact] = []
        self.room = Room(room_id=create.room_id, rules=rules)
        self._record(self.room.accepted(create, NOW))
        self.add(_member(ALICE))

    def _record(self, fact: Fact) -> None:
        self.facts.append(fact)
        self.room = self.room.evolve(fact)

    def _told(self, draft: EventDraft) -> None:
        needed = {*self.room.auth_types(draft), ("m.room.create", "")}
        if draft.state_key is not None:
            needed.add((draft.type, draft.state_key))
        self.room = self.room.learn(dict.fromkeys(self.room.unknown(needed)))

    def add(self, draft: EventDraft) -> Fact:
        self._told(draft)
        pdu = self.room.compose(draft, SIGNER, NOW, opaque_id=f"event{len(self.facts)}")
        self._record(self.room.accepted(pdu, NOW))
        return self.facts[-1]


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_room_of_every_version_takes_its_creator_and_a_message(version: str) -> None:
    story = Story(version)
    fact = story.add(_message())
    assert isinstance(fact, PduAccepted)
    assert story.room.version == 3
    assert list(story.room.extremities) == [fact.pdu.event_id]


def test_stranger_cannot_send() -> None:
    with pytest.raises(Forbidden):
        Story().add(_message(sender=BOB))


def test_replayed_facts_make_the_same_room() -> None:
    story = Story()
    story.add(EventDraft("m.room.join_rules", ALICE, {"join_rule": "public"}, ""))
    story.add(_member(BOB))
    story.add(_message(BOB))
    replayed = project_room(None, story.facts, story.room.rules)
    assert replayed.extremities == story.room.extremities
    assert replayed.version == story.room.version
    assert replayed.find_state("m.room.member", BOB) is not None


def test_state_event_says_what_it_replaces() -> None:
    story = Story()
    first = story.add(EventDraft("m.room.topic", ALICE, {"topic": "one"}, ""))
    second = story.add(EventDraft("m.room.topic", ALICE, {"topic": "two"}, ""))
    assert first.replaces is None
    assert second.replaces == first.pdu.event_id


def test_fact_out_of_turn_is_refused() -> None:
    story = Story()
    with pytest.raises(ValueError, match="cannot follow"):
        story.room.evolve(replace(story.facts[-1], originator_version=17))


def test_rejected_event_changes_nothing_but_the_version() -> None:
    story = Story()
    pdu = story.room.compose(_message(), SIGNER, NOW)
    rejected = PduRejected(story.room.room_id, story.room.version + 1, pdu, NOW, reason="rule 5")
    after = story.room.evolve(rejected)
    assert after.extremities == story.room.extremities
    assert after.state == story.room.state
    assert after.version == story.room.version + 1


def test_entry_that_a_fact_sets_to_another_event_becomes_unknown() -> None:
    story = Story()
    story.add(EventDraft("m.room.topic", ALICE, {"topic": "one"}, ""))
    story._told(_message())
    pdu = story.room.compose(_message(), SIGNER, NOW)
    merged = PduAccepted(
        story.room.room_id,
        story.room.version + 1,
        pdu,
        NOW,
        delta={("m.room.topic", ""): "$older", ("m.room.name", ""): None},
    )
    after = story.room.evolve(merged)
    assert after.unknown([("m.room.topic", ""), ("m.room.name", "")]) == [("m.room.topic", "")]
    assert after.find_state("m.room.name") is None


def test_prev_events_are_the_deepest_extremities_and_at_most_twenty() -> None:
    room = replace(
        Story().room, extremities={f"$event{depth}": Extremity(depth) for depth in range(50)}
    )
    assert room.prev_events() == [
        f"$event{depth}" for depth in range(49, 49 - MAX_PREV_EVENTS, -1)
    ]


def test_room_forgets_members_rather_than_grow_without_bound() -> None:
    room = Story().room.learn(
        {("m.room.member", f"@user{n}:example.org"): None for n in range(MAX_KNOWN_ENTRIES)}
    )
    assert room.trimmed().find_state("m.room.create") is not None
    assert len(room.trimmed().state) < 10


def test_content_that_is_no_canonical_json_is_refused() -> None:
    with pytest.raises(InvalidCanonicalJson):
        Story().add(EventDraft("m.room.message", ALICE, {"body": 1.5}))


def test_oversized_event_is_refused() -> None:
    with pytest.raises(TooLarge):
        Story().add(_message(body="x" * 66_000))
