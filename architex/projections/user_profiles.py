"""user_profiles: users as rooms show them, for finding people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import orjson

from architex.domain.identifiers import UserId, localpart_of
from architex.domain.room.events import ACCEPTED, Fact, RecordedFact
from architex.domain.search_text import MAX_WORD_LENGTH, fold_text, words_of
from architex.projections.base import Projection, Timing
from architex.storage.pool import Execute, Params, Row

MAX_SHOWN_LENGTH: Final = 1000

_UPSERT: Final = """
INSERT INTO user_profiles (user_id, displayname, avatar_url, position, words)
SELECT r.user_id, r.displayname, r.avatar_url, r.position,
    array_to_tsvector(string_to_array(r.words, E'\\n'))
FROM unnest(%b::text[], %b::text[], %b::text[], %b::int8[], %b::text[])
    AS r (user_id, displayname, avatar_url, position, words)
ON CONFLICT (user_id) DO UPDATE SET displayname = excluded.displayname,
    avatar_url = excluded.avatar_url, position = excluded.position, words = excluded.words"""


class UserProfiles(Projection):
    """Writes `user_profiles`: what the newest join event of each user says."""

    name: ClassVar[str] = "user_profiles"
    timing: ClassVar[Timing] = Timing.FOLLOWED
    tables: ClassVar[tuple[str, ...]] = ("user_profiles",)
    marks: ClassVar[tuple[str, ...]] = ('"type":"m.room.member"', '"redacts":')

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """The earlier events that these redact."""
        targets = {
            fact.pdu.redacts
            for fact in facts
            if fact.verdict == ACCEPTED and fact.pdu.redacts is not None
        }
        if not targets:
            return None
        return (
            "SELECT g.room_nid, g.event_id, g.position, convert_from(s.state, 'UTF8')"
            " FROM event_graph g JOIN stored_events s ON s.notification_id = g.position"
            " WHERE g.event_id = ANY(%s)",
            (list(targets),),
        )

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Show what the joins say, and no more what is redacted."""
        targets = {
            (room_nid, event_id): (position, orjson.loads(json)["pdu"])
            for room_nid, event_id, position, json in answer
        }
        newest: dict[UserId, tuple[Any, ...]] = {}
        for r in recorded:
            if r.fact.verdict != ACCEPTED:
                continue
            if r.pdu.redacts is not None:
                target = targets.get((r.room_nid, r.pdu.redacts))
                if (
                    target is not None
                    and target[1]["type"] == "m.room.member"
                    and r.fact.redacts_event_of(target[1]["sender"])
                ):
                    _write(execute, newest)
                    newest = {}
                    _forget_profile(execute, target[1].get("state_key", ""), target[0])
            elif r.pdu.membership == "join" and r.pdu.state_key is not None:
                displayname = shown_text(r.content.get("displayname"))
                newest[r.pdu.state_key] = (
                    r.pdu.state_key,
                    displayname,
                    shown_text(r.content.get("avatar_url")),
                    r.position,
                    "\n".join(profile_words(r.pdu.state_key, displayname)),
                )
        _write(execute, newest)


def _write(execute: Execute, rows: dict[UserId, tuple[Any, ...]]) -> None:
    if rows:
        execute(_UPSERT, [list(column) for column in zip(*rows.values(), strict=True)])


def _forget_profile(execute: Execute, user_id: UserId, position: int) -> None:
    """The event that the user's row shows was redacted: only the user ID is left."""
    execute(
        "UPDATE user_profiles SET displayname = NULL, avatar_url = NULL,"
        " words = array_to_tsvector(%s::text[]) WHERE user_id = %s AND position = %s",
        (profile_words(user_id, None), user_id, position),
    )


def shown_text(value: object) -> str | None:
    """A value of a profile as text, or None; PostgreSQL's text cannot hold U+0000."""
    if not isinstance(value, str):
        return None
    return value.replace("\0", "")[:MAX_SHOWN_LENGTH] or None


def profile_words(user_id: UserId, displayname: str | None) -> list[str]:
    """The words by which a user is found: of the display name, the localpart, and the whole ID."""
    # They reach PostgreSQL as lines.
    whole = fold_text(user_id).replace("\n", "")
    words = [whole[:MAX_WORD_LENGTH], *words_of(localpart_of(user_id))]
    if displayname is not None:
        words += words_of(displayname)
    return list(dict.fromkeys(words))
