"""From where users' devices were seen: for themselves and for administrators.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-administration
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from architex.domain.errors import Forbidden, NotFound
from architex.domain.identifiers import UserId
from architex.storage.accounts import AccountStore
from architex.storage.devices import Device, DeviceStore
from architex.usecases.requester import Requester


@dataclass(frozen=True)
class Whois:
    """What is known about the connections of users."""

    accounts: AccountStore
    devices: DeviceStore

    def list_devices(self, requester: Requester, user_id: UserId) -> Sequence[Device]:
        """The devices of a user, with when, from where and with what each was last seen.

        Raises:
            Forbidden: it is somebody else, and the requester is no administrator.
            NotFound: there is no such user.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3adminwhoisuserid
        """
        if user_id != requester.user_id:
            # First who asks, then whom they ask about: others shall not learn who exists.
            if not requester.is_admin:
                raise Forbidden("Only administrators may look up other users.")
            if self.accounts.find_account(user_id) is None:
                raise NotFound("There is no such user.")
        return self.devices.list_devices(user_id)
