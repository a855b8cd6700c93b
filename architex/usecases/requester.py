"""Requester: who is asking."""

from __future__ import annotations

from dataclasses import dataclass, field

from architex.domain.identifiers import UserId
from architex.storage.access_tokens import DeviceNews


@dataclass(frozen=True, slots=True)
class Requester:
    """The user (and device) on whose behalf a request is made, as its access token proved.

    Attributes:
        device_id: None when no device is tied to the token (application services).
        token_id: the access token's number in the database; 0 when there is none.
        is_suspended: the user may read, but hardly write.
        appservice_id: the application service that asks as this user, if one does.
        log_position: how far the log had come when the requester was found out; None: unknown.
        device_news: what /sync wants to know of the device, at that moment; None: nobody asked.
    """

    user_id: UserId
    device_id: str | None = None
    token_id: int = 0
    is_guest: bool = False
    is_admin: bool = False
    is_suspended: bool = False
    appservice_id: str | None = None
    log_position: int | None = field(default=None, compare=False)
    device_news: DeviceNews | None = field(default=None, compare=False)
