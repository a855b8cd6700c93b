"""The e-mail addresses of an account, and what identity servers tell about it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#legacy-account-management
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.errors import MatrixError, ThirdPartyInUse
from architex.domain.identifiers import ServerName, UserId
from architex.domain.third_party import ThirdPartyAddress, check_opaque
from architex.gateways.errors import RemoteError, RemoteRefused
from architex.storage.user_addresses import UserAddress, UserAddressStore
from architex.usecases import email_validation
from architex.usecases.email_validation import EmailValidations
from architex.usecases.identity_servers import IdentityServers
from architex.usecases.interactive_auth import PASSWORD, InteractiveAuth, Operation
from architex.usecases.rate_limits import RateLimits
from architex.usecases.requester import Requester

log = logging.getLogger(__name__)

MAX_UNBOUND_AT_ONCE: Final = 10
"""Addresses that identity servers are asked to forget when an account ends."""

# The statuses by which an identity server says that it has no such endpoint.
_NO_SUPPORT: Final = frozenset({400, 404, 501})


@dataclass(frozen=True)
class ThirdPartyIdentifiers:
    """Adds addresses to accounts, and has identity servers tell of them or forget them."""

    addresses: UserAddressStore
    emails: EmailValidations
    interactive_auth: InteractiveAuth
    identity_servers: IdentityServers
    rate_limits: RateLimits

    @property
    def may_change(self) -> bool:
        """Whether users can add addresses: whether this server can ask them for proof."""
        return self.emails.is_possible

    def list_addresses(self, requester: Requester) -> Sequence[UserAddress]:
        """The addresses of the account, the oldest first."""
        return self.addresses.list_addresses(requester.user_id)

    def list_addresses_of(
        self, user_ids: Collection[UserId]
    ) -> Mapping[UserId, Sequence[ThirdPartyAddress]]:
        """The addresses of several users, for the operator; who has none is not in it."""
        return self.addresses.list_addresses_of(user_ids)

    def add(self, requester: Requester, session_id: str, client_secret: str, auth: Any) -> None:
        """Make a proven address part of the account, once the user has been authenticated.

        Raises:
            AuthenticationRequired: stages are still to be completed.
            ThirdPartyAuthFailed: the address has not been proven.
            ThirdPartyInUse: it is another account's.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidadd
        """
        self.emails.check_proven(email_validation.ADD, session_id, client_secret)
        authenticated = self.interactive_auth.authenticate(
            Operation(
                name="POST /account/3pid/add",
                flows=((PASSWORD,),),
                user_id=requester.user_id,
                request={"sid": session_id, "client_secret": client_secret},
                secrets={},
            ),
            auth,
        )
        self.interactive_auth.end(authenticated)
        self.add_proven(requester, session_id, client_secret)

    def add_proven(self, requester: Requester, session_id: str, client_secret: str) -> None:
        """As `add`, at the word of an access token alone; for clients from before r0.6.0.

        Raises:
            ThirdPartyAuthFailed: the address has not been proven.
            ThirdPartyInUse: it is another account's.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pid
        """
        proven = self.emails.spend_proof(email_validation.ADD, session_id, client_secret)
        if not self.addresses.add_address(requester.user_id, proven):
            raise ThirdPartyInUse("The address belongs to another account.")

    def bind(
        self,
        requester: Requester,
        *,
        identity_server: str,
        access_token: str | None,
        session_id: str,
        client_secret: str,
    ) -> None:
        """Have an identity server tell everybody whose an address is that was proven to it.

        Raises:
            ServerNotTrusted: this server does not talk to that one.
            InvalidParam: a parameter is not of its grammar.
            RefusedElsewhere, RemoteFailed: the identity server does not do it.
            LimitExceeded: too many such wishes.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidbind
        """
        server = self.identity_servers.check_trusted(identity_server)
        token = self.identity_servers.check_access_token(access_token)
        check_opaque(session_id, "sid")
        check_opaque(client_secret, "client_secret")
        self.rate_limits.spend("identity_servers", requester.user_id)
        with self.identity_servers.refusals_passed_on():
            address = self.identity_servers.client.bind(
                server, token, session_id, client_secret, requester.user_id
            )
        self.addresses.note_published(requester.user_id, address, server)

    def unbind(
        self, requester: Requester, address: ThirdPartyAddress, identity_server: str | None
    ) -> bool:
        """Have identity servers forget that an address is the user's.

        Args:
            identity_server: which; None for those that were told through this server.

        Returns False when none of them can, or none is known.

        Raises:
            ServerNotTrusted: this server does not talk to that one.
            RefusedElsewhere, RemoteFailed: it does not do it.
            LimitExceeded: too many such wishes.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidunbind
        """
        servers = self._list_telling(requester.user_id, address, identity_server)
        self.rate_limits.spend("identity_servers", requester.user_id)
        results = []
        for server in servers:
            with self.identity_servers.refusals_passed_on():
                results.append(self._unbind(requester.user_id, address, server))
        return bool(results) and all(results)

    def delete(
        self, requester: Requester, address: ThirdPartyAddress, identity_server: str | None
    ) -> bool:
        """Take an address out of the account, and have identity servers forget it.

        Returns whether they did: False also when one does not answer.

        Raises:
            ServerNotTrusted: this server does not talk to that one.
            LimitExceeded: too many such wishes.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3piddelete
        """
        servers = self._list_telling(requester.user_id, address, identity_server)
        self.rate_limits.spend("identity_servers", requester.user_id)
        self.addresses.remove_address(requester.user_id, address)
        results = [self._try_unbind(requester.user_id, address, server) for server in servers]
        return bool(results) and all(results)

    def unbind_all(self, user_id: UserId, identity_server: str | None) -> bool:
        """Have identity servers forget all that they tell of a user: the account has ended.

        Args:
            identity_server: which; None for those that were told through this server.

        Returns False when one does not do it, also because it does not answer.
        """
        published = self.addresses.list_published(user_id)[:MAX_UNBOUND_AT_ONCE]
        if identity_server is not None:
            try:
                named = self.identity_servers.check_trusted(identity_server)
            except MatrixError:
                return False
            own = [added.address for added in self.addresses.list_addresses(user_id)]
            known = dict.fromkeys([*own, *(address for address, _ in published)])
            published = [(address, named) for address in known][:MAX_UNBOUND_AT_ONCE]
        results = [self._try_unbind(user_id, address, server) for address, server in published]
        # Nobody would ask them again, and an ended account leaves no addresses behind.
        self.addresses.forget_all_published(user_id)
        return all(results)

    # Within

    def _list_telling(
        self, user_id: UserId, address: ThirdPartyAddress, identity_server: str | None
    ) -> list[ServerName]:
        """The identity servers that are to forget an address."""
        if identity_server is not None:
            return [self.identity_servers.check_trusted(identity_server)]
        return [
            server
            for published, server in self.addresses.list_published(user_id)
            if published == address
        ]

    def _unbind(self, user_id: UserId, address: ThirdPartyAddress, server: ServerName) -> bool:
        """False when the identity server cannot forget.

        Raises:
            RemoteError: it does not want to, or does not answer.
        """
        try:
            self.identity_servers.client.unbind(server, user_id, address)
        except RemoteRefused as error:
            if error.errcode is not None or error.status not in _NO_SUPPORT:
                raise
            return False
        self.addresses.forget_published(user_id, address, server)
        return True

    def _try_unbind(self, user_id: UserId, address: ThirdPartyAddress, server: ServerName) -> bool:
        try:
            return self._unbind(user_id, address, server)
        except RemoteError as error:
            log.info("%s does not forget an address of %s: %s", server, user_id, error)
            return False
