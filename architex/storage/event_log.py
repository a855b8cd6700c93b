"""The event log of rooms: the eventsourcing application that keeps facts and loads rooms."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, StoredEvent
from eventsourcing.utils import Environment, EnvType

from architex.domain.errors import UnknownRoom
from architex.domain.identifiers import RoomId
from architex.domain.room.aggregate import Room, project_room
from architex.domain.room.events import Fact, RecordedFact
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.storage.pool import Database, PgConnection
from architex.storage.recorders import (
    FactRecorder,
    PositionTracking,
    RecorderFactory,
    SnapshotRecorder,
)
from architex.storage.room_facts import FactMapper, decode_fact
from architex.storage.room_snapshots import decode_snapshot

MAX_CACHED_ROOMS: Final = 2000


@dataclass(frozen=True, slots=True)
class RoomHead:
    """A room's row: its number, and the end of its log.

    Attributes:
        version: how many facts the room has.
        last_position: of its newest fact.
        is_version_settled: whether the room's m.room.create event is known; else its version is
            what somebody said who invited one of our users.
    """

    room_id: RoomId
    room_nid: int
    room_version: str
    version: int
    last_position: int
    is_version_settled: bool = True


class EventLog(Application[str]):
    """Facts by room and by position, and rooms loaded from them.

    Writing goes through `architex.storage.commit_queue`; its batches record facts, INLINE
    projections and answers in one transaction.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rules: dict[RoomId, RoomVersionRules] = {}
        self._rooms: OrderedDict[RoomId, Room] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__()
        self.facts_recorder = cast(FactRecorder, self.recorder)
        self.snapshot_recorder = SnapshotRecorder(database)
        self.tracking: PositionTracking = PositionTracking(database)

    def construct_factory(self, env: Environment) -> InfrastructureFactory[Any]:
        """Our own recorders, over our own pool."""
        return RecorderFactory(env, self._database, FactMapper(self.rules_of))

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        """Nothing of the process environment configures the log."""
        return Environment(name, dict(env or {}))

    # Reading

    def position(self) -> int:
        """The last position that any committed write has taken."""
        row = self._database.fetch_one("SELECT position FROM log_position")
        return int(row[0]) if row is not None else 0

    def rules_of(self, room_id: RoomId) -> RoomVersionRules:
        """The rules of a room's version.

        Raises:
            UnknownRoom: this server does not know the room.
        """
        rules = self._rules.get(room_id)
        if rules is None:
            head = self.find_head(room_id)
            if head is None:
                raise UnknownRoom(f"{room_id} is not a room this server knows.")
            rules = get_room_version(head.room_version)
            if head.is_version_settled:
                self._rules[room_id] = rules
        return rules

    def find_head(self, room_id: RoomId) -> RoomHead | None:
        """The room's row; None when this server does not know the room."""
        row = self._database.fetch_one(
            "SELECT room_id, room_nid, room_version, version, last_position, is_version_settled"
            " FROM rooms WHERE room_id = %s",
            (room_id,),
        )
        return RoomHead(*row) if row is not None else None

    def list_heads(self) -> list[RoomHead]:
        """All rooms, in the order in which they came."""
        return [
            RoomHead(*row)
            for row in self._database.fetch_all(
                "SELECT room_id, room_nid, room_version, version, last_position,"
                " is_version_settled FROM rooms ORDER BY room_nid"
            )
        ]

    def facts_after(
        self, position: int, limit: int, up_to: int | None = None
    ) -> list[RecordedFact]:
        """The facts of all rooms after a position, in order; at most `limit`."""
        rows = self._database.fetch_all(
            "SELECT s.originator_id, s.originator_version, s.topic, s.state, s.notification_id,"
            " r.room_nid, r.room_version FROM stored_events s"
            " JOIN rooms r ON r.room_id = s.originator_id"
            " WHERE s.notification_id > %s AND s.notification_id <= %s"
            " ORDER BY s.notification_id LIMIT %s",
            (position, 2**62 if up_to is None else up_to, limit),
        )
        return [recorded_fact(row) for row in rows]

    def get_room(self, room_id: RoomId) -> Room:
        """The room as of now.

        Raises:
            UnknownRoom: this server does not know the room.
        """
        head = self.find_head(room_id)
        if head is None:
            raise UnknownRoom(f"{room_id} is not a room this server knows.")
        with self._database.connection() as connection:
            return self.load_room(connection, head)

    def load_room(self, connection: PgConnection, head: RoomHead) -> Room:
        """The room at its head: remembered or from its snapshot, and then the later facts."""
        rules = get_room_version(head.room_version)
        room = self._find_cached(head.room_id)
        if not _is_earlier(room, head):
            room = self._load_snapshot(connection, head)
        if not _is_earlier(room, head):
            room = None
        if room is None or room.version < head.version:
            stored = self.facts_recorder.select_events(
                head.room_id,
                gt=0 if room is None else room.version,
                lte=head.version,
                connection=connection,
            )
            facts = [decode_fact(event, rules) for event in stored]
            room = project_room(room, facts, rules)
        self.remember(room)
        return room

    def _load_snapshot(self, connection: PgConnection, head: RoomHead) -> Room | None:
        stored = self.snapshot_recorder.select_events(
            head.room_id, lte=head.version, connection=connection
        )
        return decode_snapshot(stored[0]) if stored else None

    # The cache of rooms: immutable values, so nothing in it can be spoilt

    def _find_cached(self, room_id: RoomId) -> Room | None:
        with self._lock:
            room = self._rooms.get(room_id)
            if room is not None:
                self._rooms.move_to_end(room_id)
            return room

    def remember(self, room: Room) -> None:
        """Keep a committed value of a room for the next decision about it."""
        with self._lock:
            self._rooms[room.room_id] = room.trimmed()
            self._rooms.move_to_end(room.room_id)
            while len(self._rooms) > MAX_CACHED_ROOMS:
                self._rooms.popitem(last=False)

    def forget(self, room_ids: Sequence[RoomId]) -> None:
        """Load these rooms anew next time."""
        with self._lock:
            for room_id in room_ids:
                self._rooms.pop(room_id, None)


def _is_earlier(room: Room | None, head: RoomHead) -> bool:
    """Whether a value of a room is one that it had on its way to its head."""
    return (
        room is not None
        and room.version <= head.version
        and room.rules.version == head.room_version
    )


def recorded_fact(row: tuple[Any, ...]) -> RecordedFact:
    """A fact from (room ID, version, topic, state, position, room number, room version)."""
    room_id, version, topic, state, position, room_nid, room_version = row
    stored = StoredEvent(room_id, version, topic, state)
    fact: Fact = decode_fact(stored, get_room_version(room_version))
    return RecordedFact(position=position, room_nid=room_nid, fact=fact)
