"""Sessions: giving out tokens, recognising them, ending them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#using-access-tokens
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import Forbidden, InvalidParam, UnknownToken, UserLocked
from architex.domain.identifiers import UserId
from architex.gateways.clock import Clock, Randomness
from architex.storage.access_tokens import (
    AccessTokenStore,
    NewTokens,
    OwnerLocked,
    TokenHash,
    TokenOwner,
)
from architex.storage.devices import DeviceStore
from architex.usecases.device_lists import DeviceLists
from architex.usecases.requester import Requester

MAX_DEVICE_ID_BYTES: Final = 255
MAX_DEVICE_NAME_BYTES: Final = 1024

#: How long an access token lives that comes with a refresh token, in milliseconds.
REFRESHABLE_LIFETIME_MS: Final = 60 * 60 * 1000

# How stale the note may be of when a device was last seen: it costs a write each time.
_SEEN_EVERY_MS: Final = 5 * 60 * 1000
_SEEN_ELSEWHERE_EVERY_MS: Final = 60 * 1000

_MAX_USER_AGENT_LENGTH: Final = 500

#: What whoever has a locked account is told.
LOCKED: Final = "This account has been locked."

_DEVICE_ID_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class NewSession:
    """What a client gets to log in with.

    Attributes:
        refresh_token: None when the client takes none.
        expires_in_ms: how long the access token lives; None for without end.
    """

    user_id: UserId
    device_id: str
    access_token: str
    refresh_token: str | None = None
    expires_in_ms: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceWish:
    """What a client says about the device it logs in with.

    Attributes:
        device_id: None (or nothing) to be given one.
        display_name: for a new device.
        refreshable: the client can refresh its access token.
        address: the client's IP address.
    """

    device_id: str | None = None
    display_name: str | None = None
    refreshable: bool = False
    address: str | None = None


class Sessions:
    """Tokens and the devices they belong to."""

    def __init__(
        self,
        tokens: AccessTokenStore,
        devices: DeviceStore,
        device_lists: DeviceLists,
        clock: Clock,
        randomness: Randomness,
        *,
        refreshable_lifetime_ms: int = REFRESHABLE_LIFETIME_MS,
    ) -> None:
        self._tokens = tokens
        self._devices = devices
        self._device_lists = device_lists
        self._clock = clock
        self._randomness = randomness
        self._refreshable_lifetime_ms = refreshable_lifetime_ms

    def open_session(
        self, user_id: UserId, wish: DeviceWish, *, password_hash: str | None = None
    ) -> NewSession:
        """Give a device of the user its tokens. Those it had before are void.

        Args:
            password_hash: of the password that lets the device in; None where none does.

        Raises:
            InvalidParam: the device ID or name is not one we can keep.
            Forbidden: the user has another password by now.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#relationship-between-access-tokens-and-devices
        """
        check_device_wish(wish)
        device_id = wish.device_id or self._new_device_id()
        session, tokens = self._new_tokens(user_id, device_id, refreshable=wish.refreshable)
        is_new = self._tokens.open_session(
            user_id,
            device_id,
            tokens,
            display_name=wish.display_name,
            address=wish.address,
            password_hash=password_hash,
        )
        if is_new is None:
            raise Forbidden("Invalid username or password.")
        if is_new:
            self._device_lists.note_changed(user_id, [device_id])
        return session

    def find_requester(
        self,
        access_token: str,
        *,
        address: str,
        user_agent: str = "",
        even_locked: bool = False,
        with_news: bool = False,
    ) -> Requester:
        """Who an access token stands for; notes now and then when the device was seen.

        Args:
            address: the client's IP address.
            user_agent: the client's program, as it calls itself; empty when it does not say.
            even_locked: also let in users whose account is locked.
            with_news: tell what is new for the device, too.

        Raises:
            UnknownToken: the token is not (or no longer) valid; with soft_logout when it expired.
            UserLocked: the account is locked.
        """
        token_hash = hash_token(access_token)
        owner = self._tokens.find_owner(token_hash, with_news=with_news)
        if owner is None:
            raise UnknownToken("Unrecognised access token.", soft_logout=False)
        now_ms = self._clock.now_ms()
        if owner.expires_ts is not None and owner.expires_ts <= now_ms:
            raise UnknownToken("The access token has expired.", soft_logout=True)
        if owner.locked and not even_locked:
            raise UserLocked(LOCKED)
        if owner.unused:
            self._tokens.confirm_first_use(token_hash)
        self._note_seen(owner, address, user_agent, now_ms)
        return Requester(
            user_id=owner.user_id,
            device_id=owner.device_id,
            token_id=owner.token_id,
            is_guest=owner.is_guest,
            is_admin=owner.is_admin,
            is_suspended=owner.suspended,
            log_position=owner.log_position,
            device_news=owner.device_news,
        )

    def refresh(self, refresh_token: str) -> NewSession:
        """New tokens for the device of a refresh token.

        The old ones stay valid until one of the new ones is used, so a client that did not get
        the answer can ask again.

        Raises:
            UnknownToken: the refresh token is unknown or was revoked.
            UserLocked: the account is locked.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens
        """
        session, tokens = self._new_tokens("", "", refreshable=True)
        try:
            owner = self._tokens.refresh(hash_token(refresh_token), tokens)
        except OwnerLocked:
            raise UserLocked(LOCKED) from None
        if owner is None:
            raise UnknownToken("Unrecognised refresh token.", soft_logout=False)
        return NewSession(
            user_id=owner[0],
            device_id=owner[1],
            access_token=session.access_token,
            refresh_token=session.refresh_token,
            expires_in_ms=session.expires_in_ms,
        )

    def log_out(self, requester: Requester) -> None:
        """End the requester's token and delete its device.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logout
        """
        if requester.device_id is not None:
            self._device_lists.delete_devices(requester.user_id, [requester.device_id])

    def log_out_everywhere(self, user_id: UserId, *, keep_device: str | None = None) -> None:
        """End all tokens of a user and delete all devices, except the one to keep.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logoutall
        """
        self._device_lists.delete_all_devices(user_id, keep=keep_device)

    def _note_seen(self, owner: TokenOwner, address: str, user_agent: str, now_ms: int) -> None:
        age = None if owner.last_seen_ts is None else now_ms - owner.last_seen_ts
        every = _SEEN_EVERY_MS if address == owner.last_seen_ip else _SEEN_ELSEWHERE_EVERY_MS
        is_news = bool(user_agent) and not owner.user_agent_known
        if age is None or age >= every or is_news:
            program = user_agent[:_MAX_USER_AGENT_LENGTH].replace("\0", "")
            self._devices.note_seen(owner.user_id, owner.device_id, address, program, now_ms)

    def _new_tokens(
        self, user_id: UserId, device_id: str, *, refreshable: bool
    ) -> tuple[NewSession, NewTokens]:
        now_ms = self._clock.now_ms()
        access_token = "arx_" + self._randomness.token_urlsafe(_TOKEN_BYTES)
        refresh_token = (
            "arr_" + self._randomness.token_urlsafe(_TOKEN_BYTES) if refreshable else None
        )
        lifetime_ms = self._refreshable_lifetime_ms if refreshable else None
        session = NewSession(user_id, device_id, access_token, refresh_token, lifetime_ms)
        tokens = NewTokens(
            access_token=hash_token(access_token),
            created_ts=now_ms,
            expires_ts=None if lifetime_ms is None else now_ms + lifetime_ms,
            refresh_token=None if refresh_token is None else hash_token(refresh_token),
        )
        return session, tokens

    def _new_device_id(self) -> str:
        return "".join(self._randomness.choice(_DEVICE_ID_LETTERS) for _ in range(10))


def hash_token(token: str) -> TokenHash:
    """What is kept of a token. Tokens are random enough that a plain hash cannot be undone."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def check_device_wish(wish: DeviceWish) -> None:
    """Check that a device can have this ID and name.

    Raises:
        InvalidParam: it cannot.
    """
    device_id, display_name = wish.device_id, wish.display_name
    if device_id is not None and (
        "\0" in device_id or len(device_id.encode()) > MAX_DEVICE_ID_BYTES
    ):
        raise InvalidParam("A device ID has at most 255 bytes, none of them NUL.")
    if display_name is not None:
        check_device_name(display_name)


def check_device_name(display_name: str) -> None:
    """Check that a device can have this name.

    Raises:
        InvalidParam: it is too long or holds a NUL.
    """
    if "\0" in display_name or len(display_name.encode()) > MAX_DEVICE_NAME_BYTES:
        raise InvalidParam(
            "The display name of a device has at most 1024 bytes, none of them NUL."
        )
