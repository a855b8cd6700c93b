"""room_directory: what a list of rooms shows of each room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Final, TypeAlias

import orjson

from architex.domain.identifiers import EventId, UserId
from architex.domain.room.events import ACCEPTED, Fact, RecordedFact
from architex.domain.room_summary import plain_topic, text_in
from architex.domain.search_text import fold_text
from architex.projections.base import Projection, Timing
from architex.storage.pool import Execute, Params, Row

Content: TypeAlias = Mapping[str, Any]
Columns: TypeAlias = dict[str, Any]


# Event type → the columns that its content gives. Each also takes {}: no such event, or redacted.
_COLUMNS: Final[Mapping[str, Callable[[Content], Columns]]] = {
    "m.room.create": lambda c: {"room_type": text_in(c, "type")},
    "m.room.name": lambda c: {"name": text_in(c, "name")},
    "m.room.topic": lambda c: {"topic": plain_topic(c)},
    "m.room.canonical_alias": lambda c: {"canonical_alias": text_in(c, "alias")},
    "m.room.avatar": lambda c: {"avatar_url": text_in(c, "url")},
    "m.room.join_rules": lambda c: {"join_rule": text_in(c, "join_rule")},
    "m.room.guest_access": lambda c: {"guest_can_join": c.get("guest_access") == "can_join"},
    "m.room.history_visibility": lambda c: {
        "world_readable": c.get("history_visibility") == "world_readable"
    },
    "m.room.encryption": lambda c: {"encryption": text_in(c, "algorithm")},
}

# What the columns show survives a redaction of these.
# Spec: https://spec.matrix.org/v1.19/rooms/v11/#redactions
_SURVIVES_REDACTION: Final = frozenset(
    {"m.room.create", "m.room.join_rules", "m.room.history_visibility"}
)

_EMPTY_ROW: Final[Mapping[str, Any]] = {
    column: value for columns_of in _COLUMNS.values() for column, value in columns_of({}).items()
} | {"sources": {}}

_UPSERT: Final = """
INSERT INTO room_directory (room_nid, name, topic, canonical_alias, avatar_url, room_type,
    join_rule, guest_can_join, world_readable, encryption, search_text, sources)
VALUES (%(room_nid)s, %(name)s, %(topic)s, %(canonical_alias)s, %(avatar_url)s, %(room_type)s,
    %(join_rule)s, %(guest_can_join)s, %(world_readable)s, %(encryption)s, %(search_text)s,
    %(sources)s)
ON CONFLICT (room_nid) DO UPDATE SET name = excluded.name, topic = excluded.topic,
    canonical_alias = excluded.canonical_alias, avatar_url = excluded.avatar_url,
    room_type = excluded.room_type, join_rule = excluded.join_rule,
    guest_can_join = excluded.guest_can_join, world_readable = excluded.world_readable,
    encryption = excluded.encryption, search_text = excluded.search_text,
    sources = excluded.sources"""

_ASK: Final = """
SELECT 'room', r.room_nid, r.room_id, to_jsonb(d)::text
FROM room_directory d JOIN rooms r USING (room_nid) WHERE r.room_id = ANY(%s)
UNION ALL
SELECT CASE WHEN g.redacted_by IS NULL THEN 'event' ELSE 'redacted' END, g.room_nid, g.event_id,
    convert_from(s.state, 'UTF8')
FROM event_graph g JOIN stored_events s ON s.notification_id = g.position
WHERE g.event_id = ANY(%s)"""


class RoomDirectory(Projection):
    """Writes `room_directory`; a room has a row from its first fact on."""

    name: ClassVar[str] = "room_directory"
    timing: ClassVar[Timing] = Timing.FOLLOWED
    tables: ClassVar[tuple[str, ...]] = ("room_directory",)
    # Also where a resolution of the state brings an event of these types back.
    marks: ClassVar[tuple[str, ...]] = (*(f'"{type_}"' for type_ in _COLUMNS), '"redacts":')

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """The rows of the rooms so far, events brought back by a resolution, and redacted ones."""
        rooms = {fact.originator_id for fact in facts if _concerns(fact)}
        if not rooms:
            return None
        brought_back = {
            event_id
            for fact in facts
            for (type_, state_key), event_id in fact.state_changes.items()
            if type_ in _COLUMNS and state_key == "" and event_id is not None
        } - {fact.pdu.event_id for fact in facts}
        redacted = [fact.pdu.redacts for fact in facts if fact.pdu.redacts is not None]
        return _ASK, (list(rooms), [*brought_back, *redacted])

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Show what the new state says."""
        rows = {
            room_nid: orjson.loads(json) for kind, room_nid, _, json in answer if kind == "room"
        }
        pdus = {
            event_id: orjson.loads(json)["pdu"]
            for kind, _, event_id, json in answer
            if kind != "room"
        }
        contents: dict[EventId, Content] = {id_: pdu["content"] for id_, pdu in pdus.items()}
        senders: dict[EventId, UserId] = {id_: pdu["sender"] for id_, pdu in pdus.items()}
        redacted = {
            (room_nid, event_id) for kind, room_nid, event_id, _ in answer if kind == "redacted"
        }
        changed: dict[int, Columns] = {}
        for r in recorded:
            contents[r.pdu.event_id] = r.content
            senders[r.pdu.event_id] = r.pdu.sender
            if not _concerns(r.fact):
                continue
            row = changed.get(r.room_nid) or rows.get(r.room_nid) or _EMPTY_ROW
            target = r.pdu.redacts
            if target is not None and r.fact.redacts_event_of(senders.get(target)):
                redacted.add((r.room_nid, target))
            gone = {event_id for room_nid, event_id in redacted if room_nid == r.room_nid}
            changed[r.room_nid] = _changed_row({**row, "room_nid": r.room_nid}, r, contents, gone)
        for row in changed.values():
            shown = (row["name"], row["topic"], row["canonical_alias"])
            row["search_text"] = fold_text("\n".join(filter(None, shown)))
            execute(_UPSERT, {**row, "sources": orjson.dumps(row["sources"]).decode()})


def _concerns(fact: Fact) -> bool:
    """Whether a fact can change what is shown of its room."""
    if fact.verdict == ACCEPTED and fact.pdu.redacts is not None:
        return True
    return any(type_ in _COLUMNS and key == "" for type_, key in fact.state_changes)


def _changed_row(
    row: Columns,
    r: RecordedFact,
    contents: Mapping[EventId, Content],
    redacted: AbstractSet[EventId],
) -> Columns:
    """The row after a fact. `sources` says which event each entry shown came from."""
    sources = dict(row["sources"])
    row["sources"] = sources
    for (type_, state_key), event_id in r.fact.state_changes.items():
        if type_ in _COLUMNS and state_key == "":
            sources.pop(type_, None)
            if event_id is not None:
                sources[type_] = event_id
            row |= _COLUMNS[type_](contents.get(event_id or "", {}))
    for type_, event_id in sources.items():
        if event_id in redacted and type_ not in _SURVIVES_REDACTION:
            row |= _COLUMNS[type_]({})
    return row
