"""State resets: changes of the current state that nobody's event explains."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.events import Fact

# Events of these types may take away what others were allowed: where one of them joins a branch to
# the room, other entries may fall back to what they were.
_MAY_UNSEAT: Final[frozenset[str]] = frozenset(
    {
        "m.room.create",
        "m.room.join_rules",
        "m.room.member",
        "m.room.power_levels",
        "m.room.third_party_invite",
    }
)


def find_resets(
    pdu: Pdu,
    changes: Mapping[StateKey, EventId | None],
    met: Mapping[StateKey, Collection[EventId | None]],
    *,
    after_gap: bool = False,
) -> list[StateKey]:
    """The changes that come of an event which does not explain them.

    An event explains that it stands at its own place; one that gives or takes rights also that,
    elsewhere, what one of the branches says stands. A change to what no branch says is a reset,
    and so is any other change that comes with an event which gives and takes no rights.

    Args:
        pdu: the event with which the changes come.
        changes: of the current state: state key → event; None for an entry that goes away.
        met: for each of them, what the branches that met say.
        after_gap: the event follows some that are missing, which may have set what a branch says.
    """
    may_unseat = after_gap or (pdu.state_key is not None and pdu.type in _MAY_UNSEAT)
    return sorted(
        key
        for key, event_id in changes.items()
        if event_id != pdu.event_id and not (may_unseat and event_id in met.get(key, ()))
    )


def find_unresolved(fact: Fact) -> list[StateKey]:
    """The changes of the current state that a fact claims although no branches met with it.

    None, as long as only state resolution changes what an event does not set itself.
    """
    if fact.delta is None or fact.before is not None:
        return []
    return sorted(key for key, event_id in fact.delta.items() if event_id != fact.pdu.event_id)
