"""Room: decides by the rules, and evolves by its facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from architex.domain.errors import Forbidden, InvalidCanonicalJson, TooLarge
from architex.domain.pdu import Pdu, check_pdu_format, parse_pdu
from architex.domain.room.aggregate import (
    MAX_KNOWN_ENTRIES,
    MAX_PREV_EVENTS,
    EventDraft,
    Extremity,
    Room,
    Signer,
    compose_create_event,
    extremities_after,
    project_room,
    redaction_server,
)
from architex.domain.room.events import (
    Fact,
    JoinImported,
    PduAccepted,
    PduRejected,
    StateImported,
)
from architex.domain.room_versions import ROOM_VERSIONS, get_room_version
from architex.domain.signing import SigningKey, sign_event
from architex.domain.unpadded_base64 import decode_base64
from tests.builders import BOB as BOB_OF_B
from tests.builders import RoomBuilder

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
        delta={
            ("m.room.topic", ""): "$older",
            ("m.room.name", ""): None,
            # Unknown before: it stays so.
            ("m.room.avatar", ""): "$avatar",
        },
    )
    after = story.room.evolve(merged)
    assert after.unknown([("m.room.avatar", "")])
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


def test_room_knows_that_an_entry_is_not_there_only_when_told() -> None:
    room = Story().room
    with pytest.raises(KeyError):
        room.find_state("m.room.topic")
    assert room.learn({("m.room.topic", ""): None}).find_state("m.room.topic") is None


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_template_signed_by_another_server_is_an_event_of_the_room(version: str) -> None:
    story = Story(version)
    story.add(EventDraft("m.room.join_rules", ALICE, {"join_rule": "public"}, ""))
    carol = "@carol:c.example"
    story._told(_member(carol))
    template = story.room.build_template(_member(carol), "example.org", NOW)
    assert template["origin"] == "example.org"
    assert not {"event_id", "hashes", "signatures"} & set(template)
    named = {**template, "event_id": "$join:c.example"} if version in ("1", "2") else template
    signed, event_id = sign_event(story.room.rules, named, "c.example", SIGNER.key)
    check_pdu_format(story.room.rules, signed)
    pdu = parse_pdu(story.room.rules, signed, event_id=event_id)
    assert pdu.membership == "join"
    assert list(pdu.prev_events) == list(story.room.extremities)
    assert pdu.depth == story.room.depth + 1


def test_no_template_is_made_of_what_the_rules_forbid() -> None:
    story = Story()
    story._told(_member(BOB))
    with pytest.raises(Forbidden):
        story.room.build_template(_member(BOB), "example.org", NOW)


def test_events_of_old_rooms_quote_the_hashes_of_those_they_follow() -> None:
    story = Story("2")
    fact = story.add(_message())
    for field in ("prev_events", "auth_events"):
        assert all(
            len(decode_base64(quoted["sha256"])) == 32 for _, quoted in fact.pdu.event[field]
        )


def test_event_of_a_room_with_many_ends_is_judged_by_the_state_it_follows() -> None:
    story = Story()
    draft = _message()
    story._told(draft)
    banned = story.room.compose(_member(ALICE, "leave"), SIGNER, NOW)

    def find_before(type: str, state_key: str) -> Pdu | None:
        if (type, state_key) == ("m.room.member", ALICE):
            return banned
        return story.room.find_state(type, state_key)

    assert story.room.compose(draft, SIGNER, NOW).type == "m.room.message"
    with pytest.raises(Forbidden):
        story.room.compose(draft, SIGNER, NOW, find_before=find_before)


def test_event_that_only_closes_a_gap_is_no_end_of_the_room() -> None:
    story = Story()
    end = dict(story.room.extremities)
    pdu = story.room.compose(_message(), SIGNER, NOW)
    old = replace(pdu, prev_events=("$before",), depth=1)
    fact = PduAccepted(story.room.room_id, story.room.version + 1, old, NOW, is_followed=True)
    after = story.room.evolve(fact)
    assert dict(after.extremities) == end
    assert after.depth == story.room.depth


def test_room_whose_events_follow_each_other_in_a_circle_has_an_end_still() -> None:
    story = Story("1")
    pdu = story.room.compose(_message(), SIGNER, NOW, opaque_id="circle")
    ends = extremities_after(story.room.rules, story.room.extremities, pdu, is_followed=True)
    assert ends == story.room.extremities


def test_join_through_another_server_is_where_a_room_goes_on() -> None:
    story = Story()
    join = story.add(_member(ALICE)).pdu
    joined = JoinImported(join.room_id, 1, join, NOW, delta={join.key: join.event_id})
    room = project_room(None, [joined], story.room.rules)
    assert list(room.extremities) == [join.event_id]
    assert room.depth == join.depth
    assert room.find_state("m.room.member", ALICE) == join


def test_event_told_of_the_past_is_no_end_of_the_room() -> None:
    story = Story()
    pdu = story.room.compose(_message(), SIGNER, NOW)
    told = StateImported(story.room.room_id, story.room.version + 1, pdu, NOW, delta={})
    after = story.room.evolve(told)
    assert after.extremities == story.room.extremities
    assert after.depth == story.room.depth


def test_room_without_a_fact_is_none() -> None:
    with pytest.raises(ValueError, match="at least one"):
        project_room(None, [], get_room_version("11"))


def test_room_that_knows_a_great_many_other_entries_forgets_them_all() -> None:
    room = Story().room
    assert room.trimmed() is room
    crowded = room.learn({("org.x", str(n)): None for n in range(MAX_KNOWN_ENTRIES + 1)})
    assert not crowded.trimmed().state


# https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions
@pytest.mark.parametrize("version", ["2", "3", "11", "12"])
def test_who_has_the_power_redacts_everybody_and_others_their_own_server(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB_OF_B)
    target = room.message(room.creator)
    for sender, reaches in ((room.creator, None), (BOB_OF_B, "b.example")):
        pdu = room.compose(sender, "m.room.redaction", {}, redacts=target.event_id)
        assert redaction_server(room.rules, pdu, room.find_state) == reaches
    assert redaction_server(room.rules, target, room.find_state) is None
    # In a state without its beginning nobody has any power.
    pdu = room.compose(room.creator, "m.room.redaction", {}, redacts=target.event_id)
    assert redaction_server(room.rules, pdu, lambda *_: None) == "a.example"


@pytest.mark.parametrize("given", [None, 1, NOW + 5])
def test_event_is_made_now_unless_a_bridge_says_when(given: int | None) -> None:
    story = Story()
    fact = story.add(replace(_message(), origin_server_ts=given))
    assert fact.pdu.origin_server_ts == (NOW if given is None else given)
    room = EventDraft("m.room.create", ALICE, {"room_version": "11"}, "", origin_server_ts=given)
    create = compose_create_event(story.room.rules, room, SIGNER, NOW, opaque_id="room")
    assert create.origin_server_ts == fact.pdu.origin_server_ts


def test_version_that_the_create_event_does_not_name_rightly_is_refused() -> None:
    draft = EventDraft("m.room.create", ALICE, {"room_version": "no such version"}, "")
    with pytest.raises(Forbidden):
        compose_create_event(get_room_version("11"), draft, SIGNER, NOW, opaque_id="room")
