"""Accounts: what becomes of them after registration.

Spec: https://spec.matrix.org/v1.19/client-server-api/#legacy-account-management
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from architex.domain.errors import Forbidden, MissingParam, NotFound
from architex.domain.identifiers import UserId
from architex.gateways.clock import Clock
from architex.gateways.passwords import Hash, Passwords
from architex.storage.accounts import Account, AccountStore
from architex.usecases.interactive_auth import (
    CHANGE_PASSWORD,
    EMAIL,
    PASSWORD,
    Authenticated,
    InteractiveAuth,
    Operation,
)
from architex.usecases.registration import check_password_strength
from architex.usecases.requester import Requester
from architex.usecases.sessions import Sessions

_PASSWORD_FLOWS = ((PASSWORD,),)


@dataclass(frozen=True)
class Accounts:
    """Changes accounts.

    Attributes:
        leave_all_rooms: takes a user out of every room; for deactivation.
        reject_invites: rejects the invites from other servers; for deactivation.
        unpublish: has identity servers (the named one, or all that are known) forget a user's
            addresses; tells whether they did. For deactivation.
        emails: whether an e-mail address is good for a new password.
    """

    accounts: AccountStore
    sessions: Sessions
    interactive_auth: InteractiveAuth
    passwords: Passwords
    clock: Clock
    leave_all_rooms: Callable[[UserId], None]
    reject_invites: Callable[[UserId], None] = lambda user_id: None
    unpublish: Callable[[UserId, str | None], bool] = lambda user_id, server: True
    emails: bool = False

    def change_password(
        self, requester: Requester | None, request: Mapping[str, Any], auth: Any, *, address: str
    ) -> None:
        """Change a user's password, once the user has been authenticated.

        Args:
            requester: None when the request has no access token.
            request: `new_password` and `logout_devices` (default true); those of the session's
                first request are remembered.
            auth: the request's `auth`; None for none.
            address: the client's IP address.

        Raises:
            AuthenticationRequired: stages are still to be completed.
            MissingParam, WeakPassword: the new password will not do.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword
        """
        new_password = request.get("new_password")
        if new_password is not None:
            check_password_strength(new_password)
        authenticated = self.interactive_auth.authenticate(
            Operation(
                name=CHANGE_PASSWORD,
                flows=(*_PASSWORD_FLOWS, (EMAIL,)) if self.emails else _PASSWORD_FLOWS,
                user_id=_user_of(requester),
                request=request,
                secrets={
                    "new_password": lambda value: (
                        "new_password_hash",
                        self.passwords.hash_password(value),
                    )
                },
                address=address,
            ),
            auth,
        )
        user_id = _whose(authenticated)
        request = authenticated.request
        if new_password is not None:
            password_hash: Hash = self.passwords.hash_password(new_password)
        elif "new_password_hash" in request:
            password_hash = request["new_password_hash"]
        else:
            raise MissingParam("new_password is needed.")
        self.interactive_auth.end(authenticated)
        self.accounts.set_password_hash(user_id, password_hash)
        if request.get("logout_devices", True):
            self.sessions.log_out_everywhere(
                user_id, keep_device=None if requester is None else requester.device_id
            )

    def deactivate(
        self, requester: Requester | None, request: Mapping[str, Any], auth: Any, *, address: str
    ) -> bool:
        """Deactivate an account for good, once the user has been authenticated.

        Args:
            request: `erase` (default false), and `id_server`: an identity server that shall
                forget the user's addresses.
            address: the client's IP address.

        Returns whether all identity servers that tell the user's addresses forget them.

        Raises:
            AuthenticationRequired: stages are still to be completed.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate
        """
        authenticated = self.interactive_auth.authenticate(
            Operation(
                name="POST /account/deactivate",
                flows=_PASSWORD_FLOWS,
                user_id=_user_of(requester),
                request=request,
                secrets={},
                address=address,
            ),
            auth,
        )
        user_id = _whose(authenticated)
        self.interactive_auth.end(authenticated)
        return self.deactivate_user(
            user_id,
            erase=bool(authenticated.request.get("erase")),
            identity_server=authenticated.request.get("id_server"),
        )

    # For the operator

    def deactivate_user(
        self, user_id: UserId, *, erase: bool = False, identity_server: str | None = None
    ) -> bool:
        """End an account: no more logging in, out of all rooms; the user ID stays taken.

        Args:
            identity_server: one that shall forget the user's addresses; by default all that
                were told them through this server.

        Returns whether they forget them.

        Raises:
            NotFound: there is no such user.
        """
        if self.accounts.find_account(user_id) is None:
            raise NotFound(f"There is no user {user_id}.")
        # While the addresses are known.
        is_unpublished = self.unpublish(user_id, identity_server)
        # While the devices are there, so that others are told that they go.
        self.sessions.log_out_everywhere(user_id)
        # Before the account ends: where something fails, the user can ask again.
        self.leave_all_rooms(user_id)
        self.accounts.deactivate(user_id, self.clock.now_ms(), erase=erase)
        # This may take its time, or be in vain.
        self.reject_invites(user_id)
        return is_unpublished

    def set_password(self, user_id: UserId, password: str, *, log_out: bool = True) -> None:
        """Give a user a new password.

        Raises:
            NotFound: there is no such active user.
            WeakPassword: the password is empty.
        """
        check_password_strength(password)
        if not self.accounts.set_password_hash(user_id, self.passwords.hash_password(password)):
            raise NotFound(f"There is no active user {user_id}.")
        if log_out:
            self.sessions.log_out_everywhere(user_id)

    def set_admin(self, user_id: UserId, is_admin: bool) -> None:
        """Make a user an administrator of the server, or no more.

        Raises:
            NotFound: there is no such user.
        """
        if not self.accounts.set_admin(user_id, is_admin):
            raise NotFound(f"There is no user {user_id}.")

    def set_locked(self, user_id: UserId, locked: bool) -> None:
        """Lock or unlock an account.

        Raises:
            NotFound: there is no such user.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#account-locking
        """
        if not self.accounts.set_locked(user_id, locked):
            raise NotFound(f"There is no user {user_id}.")

    def set_suspended(self, user_id: UserId, suspended: bool) -> None:
        """Suspend an account, or end that.

        Raises:
            NotFound: there is no such user.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#account-suspension
        """
        if not self.accounts.set_suspended(user_id, suspended):
            raise NotFound(f"There is no user {user_id}.")

    def list_accounts(
        self, *, after: UserId = "", limit: int = 100, guests: bool = True
    ) -> Sequence[Account]:
        """Accounts in the order of their IDs, from the first one behind `after`."""
        return self.accounts.list_accounts(after=after, limit=limit, guests=guests)


def _user_of(requester: Requester | None) -> UserId | None:
    return None if requester is None else requester.user_id


def _whose(authenticated: Authenticated) -> UserId:
    if authenticated.user_id is None:
        raise Forbidden("Nobody was authenticated.")
    return authenticated.user_id
