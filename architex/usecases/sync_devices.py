"""What a /sync tells a device for end-to-end encryption: messages, device lists, counts of keys.

Spec: https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from architex.projections.device_list_reads import DeviceListNews, read_device_list_news
from architex.projections.sync_reads import News
from architex.storage.one_time_keys import Device, KeySupply
from architex.storage.pool import PgConnection
from architex.storage.to_device import WaitingMessage, list_waiting
from architex.usecases.requester import Requester

SIGNED_CURVE25519: Final = "signed_curve25519"
"""The algorithm of the one-time keys that all clients use."""


@dataclass(frozen=True, slots=True)
class DeviceSections:
    """The parts of a response.

    Attributes:
        to_device: events.
        seen: up to which position messages were told; None for all there are.
    """

    to_device: list[dict[str, Any]] = field(default_factory=list)
    seen: int | None = None
    device_lists: DeviceListNews = field(default_factory=DeviceListNews)

    @property
    def is_anything(self) -> bool:
        """Whether there is something to tell."""
        return bool(self.to_device) or self.device_lists.is_anything

    def put_into(self, response: dict[str, Any]) -> None:
        """Add the parts to a response; of `device_lists` only what is news."""
        response["to_device"] = {"events": self.to_device}
        lists = {"changed": self.device_lists.changed, "left": self.device_lists.left}
        told = {name: list(users) for name, users in lists.items() if users}
        if told:
            response["device_lists"] = told


def read_device_sections(
    connection: PgConnection, requester: Requester, since: int | None, received: int, news: News
) -> DeviceSections:
    """What is new for a device.

    Args:
        since: the position of its last token; None for a fresh start.
        received: up to which position it has shown to have messages.
    """
    messages: Sequence[WaitingMessage] = ()
    is_all = True
    if news.to_device and requester.device_id is not None:
        messages, is_all = list_waiting(
            connection, requester.user_id, requester.device_id, received
        )
    lists = DeviceListNews()
    if since is not None and (news.device_lists or news.rooms):
        lists = read_device_list_news(
            connection,
            requester.user_id,
            since,
            devices=news.device_lists,
            rooms=news.rooms,
        )
    return DeviceSections(
        to_device=[
            {"sender": message.sender, "type": message.type, "content": message.content}
            for message in messages
        ],
        seen=None if is_all else messages[-1].position,
        device_lists=lists,
    )


def put_key_counts(
    find_supply: Callable[[Device], KeySupply | None],
    requester: Requester,
    response: dict[str, Any],
) -> None:
    """Add how many keys of a device wait to be claimed; every response says so.

    Some clients take a missing count for none, and would upload more; others for no news, and
    would never replace keys that were all claimed. So what every client uses is always counted.
    """
    if requester.device_id is None:
        return
    supply = find_supply((requester.user_id, requester.device_id))
    counts, unused = ({}, []) if supply is None else (supply.counts, supply.unused)
    response["device_one_time_keys_count"] = {SIGNED_CURVE25519: 0, **counts}
    response["device_unused_fallback_key_types"] = unused
