"""Pushers: where somebody wants to be notified.

Spec: https://spec.matrix.org/v1.19/client-server-api/#push-notifications
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.errors import Forbidden, InvalidParam, MissingParam, TooLarge
from architex.gateways.clock import Clock
from architex.storage.pushers import Pusher, PusherStore
from architex.usecases.requester import Requester

MAX_PUSHERS: Final = 100
MAX_PUSHKEY_BYTES: Final = 512
MAX_APP_ID_CHARACTERS: Final = 64
MAX_NAME_CHARACTERS: Final = 1024
MAX_DATA_BYTES: Final = 16_384
_REQUIRED: Final = ("app_display_name", "device_display_name", "lang", "data")
_PUSH_PATH: Final = "/_matrix/push/v1/notify"


@dataclass(frozen=True)
class Pushers:
    """The pushers of whoever asks."""

    pushers: PusherStore
    clock: Clock

    def list_pushers(self, requester: Requester) -> Sequence[Pusher]:
        """All pushers of the requester.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushers
        """
        return self.pushers.list_pushers(requester.user_id)

    def set_pusher(self, requester: Requester, wish: Mapping[str, Any]) -> None:
        """Set a pusher, or delete it.

        Args:
            wish: the body of the request, its values of the right types; with a `kind` of None
                the pusher is deleted.

        Raises:
            MissingParam: something that this kind needs is missing.
            InvalidParam: a value is not of its grammar, or there are too many pushers.
            TooLarge: the data are too large.
            Forbidden: the requester has no device, with which the pusher would end.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset
        """
        app_id, pushkey, kind = wish["app_id"], wish["pushkey"], wish["kind"]
        if not 0 < len(pushkey.encode()) <= MAX_PUSHKEY_BYTES:
            raise InvalidParam(f"A pushkey has 1 to {MAX_PUSHKEY_BYTES} bytes.")
        if not 0 < len(app_id) <= MAX_APP_ID_CHARACTERS:
            raise InvalidParam(f"An app_id has 1 to {MAX_APP_ID_CHARACTERS} characters.")
        if kind is None:
            self.pushers.delete_pusher(requester.user_id, app_id, pushkey)
            return
        missing = [name for name in _REQUIRED if wish.get(name) is None]
        if missing:
            raise MissingParam(f"Missing: {', '.join(missing)}.")
        if kind != "http":
            raise InvalidParam("This server has pushers of the kind http only.")
        _check_data(wish["data"])
        names = {
            name: wish.get(name) or ""
            for name in ("app_display_name", "device_display_name", "profile_tag", "lang")
        }
        if any(len(name) > MAX_NAME_CHARACTERS for name in names.values()):
            raise InvalidParam(f"Names have at most {MAX_NAME_CHARACTERS} characters.")
        if requester.device_id is None:
            raise Forbidden("Pushers belong to devices, and you have none.")
        known = {(pusher.app_id, pusher.pushkey) for pusher in self.list_pushers(requester)}
        if len(known) >= MAX_PUSHERS and (app_id, pushkey) not in known:
            raise InvalidParam(f"A user has at most {MAX_PUSHERS} pushers.")
        pusher = Pusher(
            user_id=requester.user_id,
            app_id=app_id,
            pushkey=pushkey,
            device_id=requester.device_id,
            kind=kind,
            data=wish["data"],
            created_ts=self.clock.now_ms(),
            **names,
        )
        self.pushers.put_pusher(pusher, append=wish["append"])


def _check_data(data: Mapping[str, Any]) -> None:
    """Check what an HTTP pusher says about its push gateway."""
    url = data.get("url")
    if url is None:
        raise MissingParam("Missing: data.url.")
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        valid = parts.scheme == "https" and bool(parts.hostname) and parts.path == _PUSH_PATH
    except ValueError:
        valid = False
    if not valid:
        raise InvalidParam(f"data.url must be an HTTPS URL with the path {_PUSH_PATH}.")
    if len(encode_lenient_json(data)) > MAX_DATA_BYTES:
        raise TooLarge(f"data has at most {MAX_DATA_BYTES} bytes.")
