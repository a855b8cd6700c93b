"""What other servers may see of a room's history.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility
"""

from __future__ import annotations

from typing import Final

_RESTRICTED: Final = frozenset({"invited", "joined"})


def is_restricted(visibility: str) -> bool:
    """Whether a history visibility hides anything from a server that is in the room now.

    `world_readable` and `shared` do not: some member of the server may read everything. A value
    that is not known counts as `shared`.
    """
    return visibility in _RESTRICTED


def is_visible_to_server(visibility: str, *, has_joined: bool, has_invited: bool) -> bool:
    """Whether a server that is in the room now may see an event, by the state at that event.

    Args:
        visibility: the `history_visibility`.
        has_joined: whether a user of the server was joined.
        has_invited: whether one was invited.
    """
    if not is_restricted(visibility) or has_joined:
        return True
    return visibility == "invited" and has_invited
