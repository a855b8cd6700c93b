"""Messages to devices: at once on their way, and kept until each device has shown to have them.

What waits for a device is kept as long as the device exists; when very many wait, housekeeping
lets the oldest go. What waits for another server is kept until that server has taken it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.errors import BadJson, InvalidParam, MatrixError, TooLarge
from architex.domain.identifiers import (
    MAX_IDENTIFIER_BYTES,
    ServerName,
    UserId,
    is_user_id,
    server_name_of,
)
from architex.gateways.clock import Clock, Randomness
from architex.storage.commit_queue import CommitQueue
from architex.storage.pool import Execute
from architex.storage.to_device import (
    OutgoingMessage,
    ToDeviceMessage,
    put_messages,
)
from architex.storage.transactions import TransactionKey
from architex.usecases.requester import Requester

EDU_TYPE: Final = "m.direct_to_device"

MAX_CONTENT_BYTES: Final = 65_536
"""Of one message; a /sync tells many of them at once."""

_MAX_REMOTE_MESSAGE_ID: Final = 255
_MAX_REMOTE_MESSAGES: Final = 10_000


@dataclass(frozen=True)
class ToDevice:
    """Sends messages to devices, of this server and of others."""

    commits: CommitQueue
    clock: Clock
    randomness: Randomness
    server_name: ServerName

    def send(self, requester: Requester, type: str, txn_id: str, messages: Any) -> None:
        """Send a message to each of some devices, once per transaction.

        Args:
            messages: user ID → device ID (or `*` for all) → content.

        Raises:
            InvalidParam: the type is too long, or something is no user ID.
            BadJson: the messages are no such map.
            TooLarge: one of them has more than MAX_CONTENT_BYTES.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid
        """
        _check_type(type)
        if "\0" in txn_id:
            raise InvalidParam("A transaction ID holds no NUL.")
        if not isinstance(messages, dict):
            raise BadJson("messages must be an object.")
        local: list[ToDeviceMessage] = []
        remote: dict[ServerName, dict[UserId, Any]] = {}
        for user_id, devices in messages.items():
            if not is_user_id(user_id):
                raise InvalidParam(f"{user_id[:100]!r} is no user ID.")
            contents = _check_devices(devices)
            server_name = server_name_of(user_id)
            if server_name == self.server_name:
                local += _to_user(user_id, contents)
            else:
                remote.setdefault(server_name, {})[user_id] = contents
        outgoing = [
            OutgoingMessage(
                destination,
                self.randomness.token_urlsafe(18),
                encode_lenient_json(of_users).decode(),
            )
            for destination, of_users in remote.items()
        ]
        path = f"/sendToDevice/{type}"
        key = TransactionKey(requester.user_id, requester.device_id or "", path, txn_id)
        self._put(key, requester.user_id, type, local, outgoing)

    def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Take messages that another server sent to devices of ours, once.

        What is not of the form that the specification gives, or not for us, is ignored.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging
        """
        sender, type_ = content.get("sender"), content.get("type")
        message_id, messages = content.get("message_id"), content.get("messages")
        if not isinstance(sender, str) or not is_user_id(sender):
            return
        if server_name_of(sender) != origin or not isinstance(type_, str):
            return
        if not isinstance(message_id, str) or len(message_id) > _MAX_REMOTE_MESSAGE_ID:
            return
        if "\0" in message_id or not isinstance(messages, dict):
            return
        local: list[ToDeviceMessage] = []
        try:
            _check_type(type_)
            for user_id, devices in messages.items():
                if is_user_id(user_id) and server_name_of(user_id) == self.server_name:
                    local += _to_user(user_id, _check_devices(devices))
        except MatrixError:
            return
        if local and len(local) <= _MAX_REMOTE_MESSAGES:
            key = TransactionKey(origin, "", EDU_TYPE, message_id)
            self._put(key, sender, type_, local, [])

    def _put(
        self,
        key: TransactionKey,
        sender: UserId,
        type: str,
        local: list[ToDeviceMessage],
        outgoing: list[OutgoingMessage],
    ) -> None:
        # What is meant for one device goes before what is meant for all of the user.
        local.sort(key=lambda message: message.device_id == "*")
        now_ms = self.clock.now_ms()

        def write(execute: Execute, position: int) -> None:
            put_messages(execute, position, key, sender, type, local, outgoing, now_ms)

        self.commits.write_rows(write, wake_users={message.user_id for message in local})


def _to_user(user_id: UserId, contents: Mapping[str, Any]) -> list[ToDeviceMessage]:
    return [
        ToDeviceMessage(user_id, device_id, encode_lenient_json(content).decode())
        for device_id, content in contents.items()
    ]


def _check_devices(devices: Any) -> Mapping[str, Any]:
    if not isinstance(devices, dict):
        raise BadJson("messages must be a map of maps.")
    for device_id, content in devices.items():
        if "\0" in device_id:
            raise InvalidParam("A device ID holds no NUL.")
        if not isinstance(content, dict):
            raise BadJson("The content of a message is an object.")
        if len(encode_lenient_json(content)) > MAX_CONTENT_BYTES:
            raise TooLarge(f"A message to a device has at most {MAX_CONTENT_BYTES} bytes.")
    return devices


def _check_type(type: str) -> None:
    if not type or "\0" in type or len(type.encode()) > MAX_IDENTIFIER_BYTES:
        raise InvalidParam("A type has 1 to 255 bytes, none of them NUL.")
