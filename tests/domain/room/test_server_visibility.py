"""What other servers may see of history.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility
"""

from __future__ import annotations

import pytest

from architex.domain.room.server_visibility import is_visible_to_server


@pytest.mark.parametrize("has_joined", [False, True])
@pytest.mark.parametrize("has_invited", [False, True])
@pytest.mark.parametrize(
    ("visibility", "needs"),
    [
        ("world_readable", "nothing"),
        ("shared", "nothing"),
        ("", "nothing"),
        ("something_new", "nothing"),
        ("invited", "invite"),
        ("joined", "join"),
    ],
)
def test_history_is_for_servers_whose_users_it_is_for(
    visibility: str, needs: str, has_invited: bool, has_joined: bool
) -> None:
    seen = is_visible_to_server(visibility, has_joined=has_joined, has_invited=has_invited)
    expected = {
        "nothing": True,
        "invite": has_invited or has_joined,
        "join": has_joined,
    }
    assert seen is expected[needs]
