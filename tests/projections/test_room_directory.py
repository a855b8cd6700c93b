"""What the list of rooms shows of a room."""

from __future__ import annotations

from typing import Any

import pytest

from architex.bootstrap import Core
from architex.domain.room.aggregate import EventDraft
from tests.core import ALICE, BOB, append, create_room, member_draft
from tests.following import follow_to_the_end


def shown(core: Core, *columns: str) -> Any:
    """Columns of the only room."""
    follow_to_the_end(core.database)
    rows = core.database.fetch_all(f"SELECT {', '.join(columns)} FROM room_directory")  # noqa: S608
    assert len(rows) == 1
    return rows[0]


def state(type: str, **content: Any) -> EventDraft:
    """State that alice sets."""
    return EventDraft(type, ALICE, content, "")


def test_room_shows_its_state(core: Core) -> None:
    room_id = create_room(core)
    append(
        core,
        room_id,
        state("m.room.name", name="Garden"),
        state("m.room.topic", topic="Weeds"),
        state("m.room.canonical_alias", alias="#garden:architex.test"),
        state("m.room.avatar", url="mxc://a/b"),
        state("m.room.history_visibility", history_visibility="world_readable"),
        state("m.room.guest_access", guest_access="can_join"),
        state("m.room.encryption", algorithm="m.megolm.v1.aes-sha2"),
    )
    assert shown(core, "name", "topic", "canonical_alias", "avatar_url") == (
        "Garden",
        "Weeds",
        "#garden:architex.test",
        "mxc://a/b",
    )
    assert shown(core, "join_rule", "world_readable", "guest_can_join", "encryption") == (
        "public",
        True,
        True,
        "m.megolm.v1.aes-sha2",
    )


@pytest.mark.parametrize("name", ["", None, 7, ["Garden"], {"a": 1}])
def test_name_that_says_nothing_is_no_name(core: Core, name: Any) -> None:
    room_id = create_room(core)
    append(core, room_id, state("m.room.name", name="Garden"), state("m.room.name", name=name))
    assert shown(core, "name", "search_text") == (None, "")


def test_nul_in_a_name_does_not_stop_the_follower(core: Core) -> None:
    room_id = create_room(core)
    append(core, room_id, state("m.room.name", name="Gar\0den"))
    assert shown(core, "name") == ("Garden",)


@pytest.mark.parametrize(
    ("content", "topic"),
    [
        ({"topic": "old", "m.topic": {"m.text": [{"body": "plain"}]}}, "plain"),
        (
            {
                "topic": "old",
                "m.topic": {
                    "m.text": [
                        {"body": "<b>x</b>", "mimetype": "text/html"},
                        {"body": "plain", "mimetype": "text/plain"},
                    ]
                },
            },
            "plain",
        ),
        ({"m.topic": {"m.text": [{"body": "<b>", "mimetype": "text/html"}]}}, None),
        ({"topic": "old", "m.topic": {"m.text": []}}, "old"),
        ({"topic": "old", "m.topic": "odd"}, "old"),
    ],
)
def test_topic_is_the_plain_text_one(core: Core, content: dict[str, Any], topic: str) -> None:
    room_id = create_room(core)
    append(core, room_id, EventDraft("m.room.topic", ALICE, content, ""))
    assert shown(core, "topic") == (topic,)


def test_redacted_name_is_shown_no_more(core: Core) -> None:
    room_id = create_room(core)
    _, name = append(
        core, room_id, state("m.room.topic", topic="Weeds"), state("m.room.name", name="Rude")
    )
    assert shown(core, "name", "topic") == ("Rude", "Weeds")
    redaction = EventDraft("m.room.redaction", ALICE, {}, redacts=name.event_id)
    append(core, room_id, redaction)
    assert shown(core, "name", "topic", "search_text") == (None, "Weeds", "weeds")


def test_redacting_an_earlier_name_leaves_the_present_one(core: Core) -> None:
    room_id = create_room(core)
    first, _ = append(
        core, room_id, state("m.room.name", name="Garden"), state("m.room.name", name="Kitchen")
    )
    append(core, room_id, EventDraft("m.room.redaction", ALICE, {}, redacts=first.event_id))
    assert shown(core, "name") == ("Kitchen",)


def test_join_rule_survives_its_redaction(core: Core) -> None:
    room_id = create_room(core)
    (rule,) = append(core, room_id, state("m.room.join_rules", join_rule="invite"))
    append(core, room_id, EventDraft("m.room.redaction", ALICE, {}, redacts=rule.event_id))
    assert shown(core, "join_rule") == ("invite",)


def profile_of(core: Core, user_id: str) -> Any:
    """What user_profiles has of somebody."""
    follow_to_the_end(core.database)
    return core.database.fetch_one(
        "SELECT displayname, avatar_url FROM user_profiles WHERE user_id = %s", (user_id,)
    )


def bob_joins(**profile: Any) -> EventDraft:
    """Bob joins, or changes his profile."""
    return EventDraft("m.room.member", BOB, {"membership": "join", **profile}, BOB)


def test_profile_is_what_the_newest_join_says(core: Core) -> None:
    room_id = create_room(core)
    append(
        core, room_id, bob_joins(displayname="Bob"), bob_joins(displayname="Bobby", avatar_url="x")
    )
    assert profile_of(core, BOB) == ("Bobby", "x")
    append(core, room_id, member_draft(BOB, BOB, "leave"))
    assert profile_of(core, BOB) == ("Bobby", "x")


def test_invited_user_has_no_profile_yet(core: Core) -> None:
    append(core, create_room(core), member_draft(ALICE, BOB, "invite"))
    assert profile_of(core, BOB) is None


@pytest.mark.parametrize("split", [True, False])
def test_redacted_join_shows_no_profile(core: Core, split: bool) -> None:
    room_id = create_room(core)
    (join,) = append(core, room_id, bob_joins(displayname="Rude", avatar_url="mxc://a/b"))
    if split:
        assert profile_of(core, BOB) == ("Rude", "mxc://a/b")
    append(core, room_id, EventDraft("m.room.redaction", ALICE, {}, redacts=join.event_id))
    assert profile_of(core, BOB) == (None, None)
