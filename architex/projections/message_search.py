"""message_search: the words of messages, names and topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from architex.domain.room.events import ACCEPTED, RecordedFact
from architex.domain.room_summary import plain_topic
from architex.projections.base import Projection, Timing
from architex.storage.pool import Execute, Row

_LABELS: Final[Mapping[str, tuple[str, str]]] = {
    "m.room.message": ("body", "A"),
    "m.room.name": ("name", "B"),
    "m.room.topic": ("topic", "C"),
}

# The redaction may have come first.
_INSERT: Final = """
INSERT INTO message_search (position, room_nid, words)
SELECT %(position)s, %(room)s, setweight(to_tsvector('simple', %(text)s), %(label)s)
WHERE NOT EXISTS (SELECT FROM event_graph g
    WHERE g.position = %(position)s AND g.redacted_by IS NOT NULL)
ON CONFLICT (position) DO NOTHING"""

_FORGET: Final = """
DELETE FROM message_search m USING event_graph g
WHERE g.event_id = %(event)s AND g.room_nid = %(room)s AND g.redacted_by IS NOT NULL
    AND m.position = g.position"""


class MessageSearch(Projection):
    """Writes `message_search`; what is redacted is forgotten."""

    name: ClassVar[str] = "message_search"
    timing: ClassVar[Timing] = Timing.FOLLOWED
    tables: ClassVar[tuple[str, ...]] = ("message_search",)
    marks: ClassVar[tuple[str, ...]] = (*(f'"type":"{type_}"' for type_ in _LABELS), '"redacts":')

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Add the words of events in the timeline."""
        for r in recorded:
            if r.fact.verdict != ACCEPTED:
                continue
            if r.pdu.redacts is not None:
                execute(_FORGET, {"event": r.pdu.redacts, "room": r.room_nid})
            text = _text_of(r)
            if text is not None and r.fact.is_in_timeline:
                execute(
                    _INSERT,
                    {
                        "position": r.event_position,
                        "room": r.room_nid,
                        "text": text,
                        "label": _LABELS[r.pdu.type][1],
                    },
                )


def _text_of(r: RecordedFact) -> str | None:
    """What can be searched of an event; None for nothing."""
    if r.pdu.type not in _LABELS:
        return None
    key, _ = _LABELS[r.pdu.type]
    text: Any = r.content.get(key)
    if r.pdu.type == "m.room.topic":
        text = _topic_of(r.content)
    if not isinstance(text, str) or not text.strip():
        return None
    # PostgreSQL's text cannot hold it.
    return text.replace("\0", " ")


def _topic_of(content: Mapping[str, Any]) -> str:
    """All words of a topic in plain text: clients of different age read it at different places."""
    told = (content.get("topic"), plain_topic(content))
    return "\n".join(dict.fromkeys(text for text in told if isinstance(text, str)))
