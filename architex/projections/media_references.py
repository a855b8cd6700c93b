"""media_references: which events name which media; and which media nothing names any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from architex.domain.errors import InvalidParam
from architex.domain.identifiers import ServerName
from architex.domain.media import MediaUri, parse_media_uri
from architex.domain.room.events import ACCEPTED, RecordedFact
from architex.projections.base import Projection, Timing
from architex.storage.pool import Database, Execute, Row

MAX_PER_EVENT: Final = 50
_MAX_VALUES: Final = 5000

# The redaction may have come first.
_INSERT: Final = """
INSERT INTO media_references (server_name, media_id, position, sender, redacted)
SELECT %(server_name)s, %(media_id)s, %(position)s, %(sender)s, EXISTS (SELECT FROM event_graph g
    WHERE g.position = %(position)s AND g.redacted_by IS NOT NULL)
ON CONFLICT (server_name, media_id, position) DO NOTHING"""
_REDACT: Final = """
UPDATE media_references m SET redacted = true FROM event_graph g
WHERE g.event_id = %(event)s AND g.room_nid = %(room)s AND g.redacted_by IS NOT NULL
    AND m.position = g.position"""

# Only who uploaded it takes it away by a redaction: others may name anybody's media.
_UNNAMED: Final = """
SELECT DISTINCT m.server_name, m.media_id
FROM media_references r JOIN media m USING (server_name, media_id)
WHERE r.redacted AND r.server_name = %(own)s AND m.uploader = r.sender AND NOT m.protected
    AND NOT EXISTS (SELECT FROM media_references o WHERE o.server_name = r.server_name
        AND o.media_id = r.media_id AND NOT o.redacted)
    AND NOT EXISTS (SELECT FROM profiles p WHERE p.user_id = r.sender
        AND p.value LIKE '%%' || r.media_id || '%%')
LIMIT %(limit)s"""


class MediaReferences(Projection):
    """Writes `media_references`."""

    name: ClassVar[str] = "media_references"
    timing: ClassVar[Timing] = Timing.FOLLOWED
    tables: ClassVar[tuple[str, ...]] = ("media_references",)
    marks: ClassVar[tuple[str, ...]] = ("mxc://", '"redacts":')

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Note what events name, and that redacted ones do so no longer."""
        for r in recorded:
            if r.fact.verdict != ACCEPTED:
                continue
            if r.pdu.redacts is not None:
                execute(_REDACT, {"event": r.pdu.redacts, "room": r.room_nid})
            for uri in find_media(r.content):
                execute(
                    _INSERT,
                    {
                        "server_name": uri.server_name,
                        "media_id": uri.media_id,
                        "position": r.event_position,
                        "sender": r.pdu.sender,
                    },
                )


class RedactedMedia:
    """Says what may go because nothing names it any more."""

    def __init__(self, database: Database, server_name: ServerName) -> None:
        """Take the database; `server_name` is ours."""
        self._database = database
        self._server_name = server_name

    def list_unnamed(self, limit: int) -> Sequence[MediaUri]:
        """Uploads of our users that events of theirs named, all of which were redacted.

        What an encrypted event names we cannot see; such media is not in question at all, unless
        its uploader also named it in the open.
        """
        rows = self._database.fetch_all(_UNNAMED, {"own": self._server_name, "limit": limit})
        return [MediaUri(server_name, media_id) for server_name, media_id in rows]


def find_media(content: Mapping[str, Any]) -> list[MediaUri]:
    """The media that an event's content names, anywhere in it; each once."""
    found: dict[MediaUri, None] = {}
    for value in _strings(content):
        if value.startswith("mxc://") and len(found) < MAX_PER_EVENT:
            try:
                found[parse_media_uri(value)] = None
            except InvalidParam:
                continue
    return list(found)


def _strings(content: Mapping[str, Any]) -> Iterator[str]:
    """The strings in a content, without recursion."""
    left: list[Any] = [content]
    for _ in range(_MAX_VALUES):
        if not left:
            return
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, list | tuple):
            left.extend(value)
