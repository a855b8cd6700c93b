"""Identity servers, as far as the operator trusts them; what they refuse becomes a MatrixError."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import InvalidParam, RefusedElsewhere, RemoteFailed, ServerNotTrusted
from architex.domain.identifiers import ServerName, is_server_name
from architex.gateways.errors import RemoteError, RemoteRefused
from architex.gateways.identity_server import IdentityServerClient

_ERRCODE: Final = re.compile(r"[A-Z][A-Z0-9_.]{1,80}", re.ASCII)
_MAX_SAID: Final = 500


@dataclass(frozen=True)
class IdentityServers:
    """The identity servers that users may name.

    Attributes:
        trusted: their names; "*" is any.
    """

    client: IdentityServerClient
    trusted: Sequence[str]

    def check_trusted(self, server: str) -> ServerName:
        """The name of an identity server, if users may name it.

        Raises:
            ServerNotTrusted: they may not.
        """
        # Some clients name it by its URL.
        name = server.removeprefix("https://").rstrip("/").lower()
        if not is_server_name(name) or not ("*" in self.trusted or name in self.trusted):
            raise ServerNotTrusted("This server does not talk to that identity server.")
        return name

    def check_access_token(self, token: str | None) -> str:
        """A user's token for an identity server, if it can be one.

        Raises:
            InvalidParam: it cannot.
        """
        if not token or len(token) > 4096 or not (token.isascii() and token.isprintable()):
            raise InvalidParam("An id_access_token of the identity server is needed.")
        return token

    @contextmanager
    def refusals_passed_on(self) -> Iterator[None]:
        """Turn what goes wrong at an identity server into what its user is told.

        Raises:
            RefusedElsewhere: it refused, and said why.
            RemoteFailed: it does not answer, or makes no sense.
        """
        try:
            yield
        except RemoteRefused as error:
            errcode, said = error.errcode, error.body.get("error")
            if errcode is None or _ERRCODE.fullmatch(errcode) is None:
                raise RemoteFailed("The identity server refuses.") from error
            message = said[:_MAX_SAID] if isinstance(said, str) else "The identity server refuses."
            raise RefusedElsewhere(message, errcode=errcode) from error
        except RemoteError as error:
            raise RemoteFailed("The identity server gives no useful answer.") from error
