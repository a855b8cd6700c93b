"""Housekeeping: throws away what has had its time, and says what time has brought about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from architex.domain.identifiers import ServerName
from architex.followers.runner import UNHURRIED_INTERVAL_S
from architex.gateways.clock import Clock
from architex.storage.destinations import Destinations
from architex.storage.device_lists import DeviceListStore
from architex.storage.expiries import Expiries
from architex.storage.one_time_keys import OneTimeKeyStore
from architex.storage.remote_devices import RemoteDeviceStore
from architex.storage.to_device import ToDeviceStore
from architex.storage.transactions import Transactions
from architex.usecases.media_care import MediaCare
from architex.usecases.receipts import Receipts
from architex.usecases.receiving import Receiving

log = logging.getLogger(__name__)

DAY_MS: Final = 24 * 60 * 60 * 1000
REFUSED_KEPT_MS: Final = 30 * DAY_MS
"""How long it is remembered what other servers would not take."""
TRANSACTIONS_KEPT_MS: Final = DAY_MS
"""How long the answer to a transaction ID is remembered after it was given."""

CLAIMED_KEYS_KEPT_MS: Final = 90 * DAY_MS
"""How long it is remembered that a one-time key was given out."""
DEVICE_UPDATES_KEPT_MS: Final = 30 * DAY_MS
"""A server that was away for longer asks for whole device lists."""
MAX_WAITING_MESSAGES: Final = 100_000
"""Messages that wait for one device; of more, the oldest go."""


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do again and again.

    Attributes:
        every_s: seconds between two times.
        run: does a bounded piece of it; returns how many things it dealt with. What it leaves is
            left for the next time.
    """

    name: str
    every_s: float
    run: Callable[[], int]


@dataclass
class Housekeeping:
    """A follower of time: does each chore when it is due."""

    chores: Sequence[Chore]
    clock: Clock
    _done_at: dict[str, float] = field(default_factory=dict)

    name: str = "housekeeping"
    interval_s: float = UNHURRIED_INTERVAL_S

    def advance(self) -> bool:
        """Do the chores that are due. One that fails does not keep the others from being done.

        Raises:
            Exception: what the first failing one raised, after all were tried.
        """
        failure: Exception | None = None
        for chore in self.chores:
            now = self.clock.monotonic()
            if now - self._done_at.get(chore.name, float("-inf")) < chore.every_s:
                continue
            self._done_at[chore.name] = now
            try:
                count = chore.run()
            except Exception as error:  # noqa: BLE001 - raised below, after the others' turn
                failure = failure or error
            else:
                log.debug("%s: %d", chore.name, count)
        if failure is not None:
            raise failure
        return False


def chores_of_time(
    transactions: Transactions,
    expiries: Expiries,
    announce_typing: Callable[[], int],
    clock: Clock,
) -> list[Chore]:
    """The chores of a server.

    Args:
        announce_typing: tells rooms who has stopped typing by falling silent.
    """

    def forget_transactions() -> int:
        return transactions.delete_before(clock.now_ms() - TRANSACTIONS_KEPT_MS)

    def delete_expired() -> int:
        return expiries.delete_expired(clock.now_ms())

    return [
        Chore("say who stopped typing", 5.0, announce_typing),
        Chore("forget old transactions", 60.0, forget_transactions),
        Chore("delete what has expired", 300.0, delete_expired),
    ]


def chores_of_receiving(receiving: Receiving, receipts: Receipts, clock: Clock) -> list[Chore]:
    """The chores that other servers' transactions bring; they may take their time."""

    def forget_answers() -> int:
        return receiving.forget_answers(clock.now_ms() - TRANSACTIONS_KEPT_MS)

    return [
        Chore("judge events that wait", 1.0, receiving.retry_waiting),
        Chore("note receipts whose events have come", 1.0, receipts.receive_early),
        Chore("forget answers to other servers", 60.0, forget_answers),
    ]


def chores_of_devices(
    one_time_keys: OneTimeKeyStore,
    device_lists: DeviceListStore,
    remote_devices: RemoteDeviceStore,
    to_device: ToDeviceStore,
    clock: Clock,
    server_name: ServerName,
) -> list[Chore]:
    """The chores that end-to-end encryption brings."""

    def forget_claimed() -> int:
        return one_time_keys.forget_claimed(clock.now_ms() - CLAIMED_KEYS_KEPT_MS)

    def forget_updates() -> int:
        return device_lists.delete_old_updates(clock.now_ms() - DEVICE_UPDATES_KEPT_MS)

    def delete_surplus() -> int:
        return to_device.delete_surplus(MAX_WAITING_MESSAGES, server_name)

    return [
        Chore("forget one-time keys given out long ago", 600.0, forget_claimed),
        Chore("forget what other servers heard of devices", 600.0, forget_updates),
        Chore("forget devices of users who are gone", 600.0, remote_devices.delete_unused),
        Chore("bound what waits for devices", 3600.0, delete_surplus),
    ]


def chores_of_sending(
    destinations: Destinations,
    forget_delivered: Callable[[], int],
    forget_oldest: Callable[[], int],
    clock: Clock,
) -> list[Chore]:
    """The chores that sending to other servers brings.

    Args:
        forget_delivered: deletes events that all servers have from the queue.
        forget_oldest: deletes those of which too many wait.
    """

    def forget_old() -> int:
        return destinations.forget_old(clock.now_ms() - REFUSED_KEPT_MS)

    return [
        Chore("forget what other servers have", 60.0, forget_delivered),
        Chore("forget what other servers missed long ago", 3600.0, forget_oldest),
        Chore("forget what other servers refused long ago", 3600.0, forget_old),
    ]


def chores_of_media(care: MediaCare, forget_previews: Callable[[], int]) -> list[Chore]:
    """The chores that media brings; they may take their time.

    Args:
        forget_previews: forgets what was said about web pages long ago.
    """
    return [
        Chore("put right what uploads left behind", 60.0, care.settle_abandoned),
        Chore("make room for files of other servers", 60.0, care.make_room),
        Chore("remove media whose time is over", 60.0, care.remove_expired),
        Chore("forget previews of web pages", 600.0, forget_previews),
        Chore("remove media of redacted messages", 60.0, care.remove_redacted),
        Chore("remove media that nobody reads", 300.0, care.remove_unread),
        Chore("remove files that nothing refers to", 3600.0, care.remove_unreferenced),
    ]
