"""Invite permission: users say whether they want to be invited at all.

Spec: https://spec.matrix.org/v1.19/client-server-api/#invite-permission
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from architex.domain.errors import InviteBlocked
from architex.domain.identifiers import UserId
from architex.storage.account_data import GLOBAL, AccountDataStore


@dataclass(frozen=True)
class InvitePermission:
    """Reads what users of this server set as m.invite_permission_config."""

    account_data: AccountDataStore

    def is_blocking(self, user_id: UserId) -> bool:
        """Whether a user of this server blocks all invites.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#minvite_permission_config
        """
        content = self.account_data.find_content(user_id, GLOBAL, "m.invite_permission_config")
        # Clients write it: it can be anything.
        config = None if content is None else orjson.loads(content)
        return isinstance(config, dict) and config.get("default_action") == "block"

    def check(self, user_id: UserId) -> None:
        """Check that a user of this server may be invited.

        Raises:
            InviteBlocked: they block invites.
        """
        if self.is_blocking(user_id):
            raise InviteBlocked(f"{user_id} wants no invites.")
