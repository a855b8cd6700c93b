"""Relations: what an event says about the event it belongs to.

Spec: https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from architex.domain.identifiers import MAX_IDENTIFIER_BYTES, EventId

THREAD: Final = "m.thread"
REPLACE: Final = "m.replace"
REFERENCE: Final = "m.reference"
ANNOTATION: Final = "m.annotation"


class Relation(NamedTuple):
    """A relation to a parent event.

    Attributes:
        key: of an annotation; None where there is none, or none that anybody would send.
    """

    rel_type: str
    parent: EventId
    key: str | None = None


def find_relation(content: Mapping[str, Any]) -> Relation | None:
    """The relation that an event's content tells of; None for none, and for one without form.

    "Relationships which don't match the schema […] are simply ignored."
    """
    told = content.get("m.relates_to")
    if not isinstance(told, Mapping):
        return None
    rel_type, parent, key = told.get("rel_type"), told.get("event_id"), told.get("key")
    if not _is_name(rel_type) or not _is_name(parent):
        return None
    return Relation(str(rel_type), str(parent), str(key) if _is_name(key) else None)


def has_new_content(type: str, content: Mapping[str, Any]) -> bool:
    """Whether an event brings what an edit must; of encrypted ones nobody here can say.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events
    """
    return type == "m.room.encrypted" or isinstance(content.get("m.new_content"), Mapping)


def _is_name(value: Any) -> bool:
    return (
        isinstance(value, str)
        and "\0" not in value
        and 0 < len(value.encode("utf-8", "replace")) <= MAX_IDENTIFIER_BYTES
    )
