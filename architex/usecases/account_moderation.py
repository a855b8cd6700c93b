"""Account moderation: locking and suspending, by administrators through their clients.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-administration
"""

from __future__ import annotations

from dataclasses import dataclass

from architex.domain.errors import Forbidden, InvalidParam, NotFound
from architex.domain.identifiers import ServerName, UserId, parse_user_id, server_name_of
from architex.storage.accounts import Account, AccountStore
from architex.usecases.requester import Requester


@dataclass(frozen=True)
class AccountModeration:
    """Locks and suspends accounts of others.

    Every method raises, in this order:

        Forbidden: the requester is no administrator; nobody else shall learn who exists.
        InvalidParam: the user is of another server.
        NotFound: there is no such active user.
        Forbidden: the user is an administrator, too.
    """

    accounts: AccountStore
    server_name: ServerName

    def find_account(self, requester: Requester, user_id: UserId) -> Account:
        """An account that may be moderated."""
        if not requester.is_admin:
            raise Forbidden("Only administrators may do this.")
        if server_name_of(parse_user_id(user_id)) != self.server_name:
            raise InvalidParam("This user is of another server.")
        account = self.accounts.find_account(user_id)
        if account is None or account.deactivated_ts is not None:
            raise NotFound("There is no such user.")
        if account.is_admin:
            raise Forbidden("Administrators do not lock or suspend each other.")
        return account

    def set_locked(self, requester: Requester, user_id: UserId, locked: bool) -> None:
        """Lock an account, or unlock it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#account-locking
        """
        self.find_account(requester, user_id)
        self.accounts.set_locked(user_id, locked)

    def set_suspended(self, requester: Requester, user_id: UserId, suspended: bool) -> None:
        """Suspend an account, or end that.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#account-suspension
        """
        self.find_account(requester, user_id)
        self.accounts.set_suspended(user_id, suspended)
