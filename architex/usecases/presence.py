"""Presence: who is there, as users say it and as their clients show it by asking for news.

Spec: https://spec.matrix.org/v1.19/client-server-api/#presence
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias, TypeVar

from architex.domain.errors import Forbidden, InvalidParam, NotFound
from architex.domain.identifiers import UserId
from architex.gateways.clock import Clock
from architex.storage.commit_queue import CommitQueue
from architex.storage.pool import Execute
from architex.storage.presence import Presence, PresenceStore, ShownPresence, put_presence
from architex.usecases.requester import Requester

STATES: Final = ("online", "offline", "unavailable")

IDLE_AFTER_MS: Final = 5 * 60_000
"""For so long after doing something a user counts as currently active, and is idle then."""

SILENT_AFTER_MS: Final = 90_000
"""Whose clients asked for nothing for so long is offline."""

LONG_POLL_MS: Final = 60_000
"""Whoever waits longer for news is counted as there until so long before the end."""

TOUCH_EVERY_MS: Final = 30_000
"""A client asking for news is noted at most so often."""

REMOTE_SILENT_AFTER_MS: Final = 30 * 60_000
"""Users of another server of whom it tells nothing for so long are offline."""

ACTIVE_EVERY_MS: Final = 30_000
"""What a user does is noted at most so often."""

MAX_ONLINE_DEVICES: Final = 20
"""Of so many devices of a user it is known that they are active; more change nothing."""

MAX_STATUS_BYTES: Final = 4096
MAX_NOTED: Final = 20_000

_Device: TypeAlias = tuple[UserId, str]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class RemotePresence:
    """What another server says about the presence of a user of its own.

    Attributes:
        presence: one of STATES.
        status_msg: of at most MAX_STATUS_BYTES.
    """

    user_id: UserId
    presence: str
    status_msg: str | None
    last_active_ago_ms: int


@dataclass(frozen=True)
class PresenceUpdates:
    """Tells and asks about presence; does nothing when the server keeps none.

    Attributes:
        enabled: whether the server keeps presence at all.
    """

    store: PresenceStore
    commits: CommitQueue
    clock: Clock
    enabled: bool = True
    # Device → the state lately noted by this process and when: most syncs change nothing.
    _noted: OrderedDict[_Device, tuple[str, int]] = field(default_factory=OrderedDict)
    # User → when this process lately noted that they did something.
    _active: OrderedDict[UserId, int] = field(default_factory=OrderedDict)

    def set_status(
        self, requester: Requester, user_id: UserId, presence: str, status_msg: str | None
    ) -> None:
        """Say how the requester is to be seen.

        Raises:
            Forbidden: it is somebody else's presence.
            InvalidParam: there is no such state, or the message is too long.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3presenceuseridstatus
        """
        if requester.user_id != user_id:
            raise Forbidden("You may only set your own presence.")
        if presence not in STATES:
            raise InvalidParam("presence must be online, offline or unavailable.")
        if status_msg is not None and len(status_msg.encode()) > MAX_STATUS_BYTES:
            raise InvalidParam(f"A status message has at most {MAX_STATUS_BYTES} bytes.")
        if not self.enabled:
            return
        now_ms = self.clock.now_ms()
        held = self.store.find_presence(user_id)
        last_sync_ts = 0 if held is None else held.last_sync_ts
        is_online = presence == "online"
        last_active_ts = now_ms if is_online else _last_active_ts(held, now_ms)
        device = requester.device_id or ""
        devices = {**_online_devices(held, now_ms), device: now_ms} if is_online else {}
        self._noted.pop((user_id, device), None)
        self._active.pop(user_id, None)
        self._announce(
            Presence(user_id, presence, status_msg, last_active_ts, last_sync_ts, devices)
        )

    def receive_remote(self, told: Sequence[RemotePresence]) -> None:
        """Note how users of another server are to be seen, says that server.

        Users who share no room with anybody here are left out.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#presence
        """
        if not self.enabled:
            return
        now_ms = self.clock.now_ms()
        # As if their clients asked us: so they fall silent when their server tells nothing more.
        last_sync_ts = now_ms + REMOTE_SILENT_AFTER_MS - SILENT_AFTER_MS
        news: dict[UserId, Presence] = {}
        rooms: set[int] = set()
        for one in told:
            rooms_to_tell = self.store.list_rooms_to_tell(one.user_id)
            if rooms_to_tell:
                rooms.update(rooms_to_tell)
                active_ts = max(now_ms - one.last_active_ago_ms, 0)
                news[one.user_id] = Presence(
                    one.user_id, one.presence, one.status_msg, active_ts, last_sync_ts
                )

        def write(execute: Execute, position: int) -> None:
            for presence in news.values():
                put_presence(execute, position, presence)

        if news:
            self.commits.write_rows(write, wake_rooms=rooms, durable=False)

    def get_status(self, requester: Requester, user_id: UserId) -> dict[str, Any]:
        """How a user is to be seen.

        Raises:
            NotFound: nothing is known of the user's presence.
            Forbidden: the requester shares no room with the user.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3presenceuseridstatus
        """
        if requester.user_id != user_id and not self.store.share_room(requester.user_id, user_id):
            raise Forbidden("You share no room with this user.")
        held = self.store.find_presence(user_id) if self.enabled else None
        if held is None:
            if requester.user_id != user_id:
                raise NotFound("Nothing is known of this user's presence.")
            return {"presence": "offline"}
        return presence_content(held, self.clock.now_ms())

    def note_sync(self, requester: Requester, set_presence: str, *, wait_ms: int = 0) -> None:
        """A client of a user asks for news, and with that sets the user's presence.

        While one device is active, another that is idle changes nothing. Coming online is
        something a user does; waiting for news is not: after IDLE_AFTER_MS the user is idle
        (see `announce_quiet`).

        Args:
            set_presence: `offline` leaves the presence alone.
            wait_ms: how long it will wait for them, in milliseconds.
        """
        if not self.enabled or set_presence == "offline":
            return
        now_ms = self.clock.now_ms()
        user_id, device = requester.user_id, requester.device_id or ""
        noted, noted_ts = self._noted.get((user_id, device), ("", 0))
        if noted == set_presence and now_ms - noted_ts < TOUCH_EVERY_MS:
            return
        _remember(self._noted, (user_id, device), (set_presence, now_ms))
        held = self.store.find_presence(user_id)
        devices = _online_devices(held, now_ms)
        was_online = devices.pop(device, None) is not None
        there_ts = now_ms + max(wait_ms - LONG_POLL_MS, 0)
        if set_presence == "online":
            devices[device] = there_ts
        comes_online = set_presence == "online" and not was_online
        active_ts = now_ms if held is None or comes_online else held.last_active_ts
        is_idle = now_ms - active_ts >= IDLE_AFTER_MS
        state = "online" if devices else "unavailable"
        if devices and is_idle and held is not None:
            state = held.presence
        shown = Presence(
            user_id,
            state,
            None if held is None else held.status_msg,
            active_ts,
            max(there_ts, 0 if held is None else held.last_sync_ts),
            devices,
        )
        if held is None or held.presence != shown.presence:
            self._announce(shown)
        else:
            self.store.touch(shown)

    def note_active(self, requester: Requester) -> None:
        """A user does something, which ends being idle; who is not to be seen stays so.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#last-active-ago
        """
        if not self.enabled:
            return
        now_ms = self.clock.now_ms()
        user_id = requester.user_id
        if now_ms - self._active.get(user_id, 0) < ACTIVE_EVERY_MS:
            return
        _remember(self._active, user_id, now_ms)
        held = self.store.find_presence(user_id)
        if held is None:
            return
        active = replace(held, last_active_ts=now_ms)
        if held.presence != "unavailable":
            self.store.touch(active)
            return
        devices = {**_online_devices(held, now_ms), requester.device_id or "": now_ms}
        self._announce(replace(active, presence="online", online_devices=devices))

    def announce_profile(self, user_id: UserId) -> None:
        """Tell again how a user of ours is to be seen, who has another name or avatar now.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#events-on-change-of-profile-information
        """
        if self.enabled:
            held = self.store.find_presence(user_id)
            self._announce(held or Presence(user_id, "offline", None, 0, 0))

    def announce_quiet(self) -> int:
        """Who has done nothing for long is idle, whose clients went silent offline; how many are.

        For whoever does the housekeeping; call it every few seconds. All are announced together:
        when many become so at about the same time, the others in their rooms are woken once.
        """
        if not self.enabled:
            return 0
        now_ms = self.clock.now_ms()
        silent = self.store.list_silent(now_ms - SILENT_AFTER_MS)
        idle = self.store.list_inactive(now_ms - IDLE_AFTER_MS)
        changed = {held.user_id: replace(held, presence="unavailable") for held in idle}
        for held in silent:
            changed[held.user_id] = replace(held, presence="offline", online_devices={})
        if changed:
            self._announce(*changed.values())
        return len(changed)

    def _announce(self, *announced: Presence) -> None:
        def write(execute: Execute, position: int) -> None:
            for presence in announced:
                put_presence(execute, position, presence)

        user_ids = [presence.user_id for presence in announced]
        self.commits.write_rows(
            write,
            wake_users=user_ids,
            wake_rooms=self.store.list_rooms_to_tell(*user_ids),
            durable=False,
        )


def presence_content(presence: Presence, now_ms: int) -> dict[str, Any]:
    """The content of an m.presence event.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mpresence
    """
    content: dict[str, Any] = {"presence": presence.presence}
    ago_ms = max(now_ms - presence.last_active_ts, 0)
    if presence.last_active_ts:
        content["last_active_ago"] = ago_ms
    if presence.presence == "online":
        content["currently_active"] = ago_ms < IDLE_AFTER_MS
    if presence.status_msg is not None:
        content["status_msg"] = presence.status_msg
    return content


def presence_event(shown: ShownPresence, now_ms: int) -> dict[str, Any]:
    """The m.presence event of a user."""
    content = presence_content(shown.presence, now_ms)
    names = {"displayname": shown.displayname, "avatar_url": shown.avatar_url}
    content |= {key: name for key, name in names.items() if name is not None}
    return {"type": "m.presence", "sender": shown.presence.user_id, "content": content}


def _remember(noted: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    noted[key] = value
    noted.move_to_end(key)
    while len(noted) > MAX_NOTED:
        noted.popitem(last=False)


def _online_devices(held: Presence | None, now_ms: int) -> dict[str, int]:
    """The devices that have shown the user to be online, and not too long ago."""
    told = {} if held is None else held.online_devices
    newest = sorted(told.items(), key=lambda entry: entry[1], reverse=True)
    return {
        device: ts for device, ts in newest[:MAX_ONLINE_DEVICES] if now_ms - ts < SILENT_AFTER_MS
    }


def _last_active_ts(held: Presence | None, now_ms: int) -> int:
    return now_ms if held is None else held.last_active_ts
