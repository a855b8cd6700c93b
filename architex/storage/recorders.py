"""The eventsourcing library's recorders over our own connections, tables and positions."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event as StopSignal
from typing import Any, Final, cast
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    IntegrityError,
    Mapper,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
    Transcoder,
)
from eventsourcing.utils import Environment
from psycopg import errors

from architex.storage.pool import Database, PgConnection
from architex.storage.room_facts import FactMapper

TAKE_POSITIONS: Final = "UPDATE log_position SET position = position + %s RETURNING position - %s"
"""Reserves positions; returns the last one before them. Its row lock lasts until COMMIT, so
positions become visible in the order in which they were taken."""

INSERT_FACTS: Final = """
INSERT INTO stored_events (originator_id, originator_version, topic, state, notification_id)
SELECT * FROM unnest(%b::text[], %b::int8[], %b::text[], %b::bytea[], %b::int8[])"""


_SELECT_FACTS: Final = """
SELECT originator_id, originator_version, topic, state FROM stored_events
WHERE originator_id = %s AND originator_version > %s AND originator_version <= %s
ORDER BY originator_version LIMIT %s"""

_SELECT_NEWEST_FACTS: Final = """
SELECT originator_id, originator_version, topic, state FROM stored_events
WHERE originator_id = %s AND originator_version > %s AND originator_version <= %s
ORDER BY originator_version DESC LIMIT %s"""


class FactRecorder(ApplicationRecorder):
    """Records facts of rooms, and reads them by room or by position."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Record facts in a transaction of their own; the commit queue does so in its batches.

        Returns their positions.

        Raises:
            IntegrityError: a fact of that room and version exists.
        """
        if not stored_events:
            return []
        try:
            with self._database.transaction() as connection:
                taken = len(stored_events)
                row = connection.execute(TAKE_POSITIONS, (taken, taken)).fetchone()
                if row is None:
                    raise IntegrityError("log_position has no row")
                positions = [row[0] + n for n in range(1, taken + 1)]
                connection.execute(INSERT_FACTS, fact_columns(stored_events, positions))
        except errors.UniqueViolation as error:
            raise IntegrityError(str(error)) from error
        return positions

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
        connection: PgConnection | None = None,
    ) -> Sequence[StoredEvent]:
        """Facts of one room, in order of version; through `connection` if one is given."""
        sql = _SELECT_NEWEST_FACTS if desc else _SELECT_FACTS
        params = (str(originator_id), gt or 0, 2**62 if lte is None else lte, limit)
        if connection is None:
            rows = self._database.fetch_all(sql, params)
        else:
            rows = connection.execute(sql, params).fetchall()
        return [StoredEvent(*row) for row in rows]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Facts of all rooms from position `start` on, in order of position."""
        after = 0 if start is None else start - 1 if inclusive_of_start else start
        rows = self._database.fetch_all(
            "SELECT originator_id, originator_version, topic, state, notification_id"
            " FROM stored_events WHERE notification_id > %s AND notification_id <= %s"
            " AND (%s::text[] IS NULL OR topic = ANY(%s)) ORDER BY notification_id LIMIT %s",
            (after, 2**62 if stop is None else stop, list(topics) or None, list(topics), limit),
        )
        return [
            Notification(
                originator_id=room_id,
                originator_version=version,
                topic=topic,
                state=state,
                id=position,
            )
            for room_id, version, topic, state, position in rows
        ]

    def max_notification_id(self) -> int | None:
        """The position of the newest fact; None when there is none."""
        row = self._database.fetch_one("SELECT max(notification_id) FROM stored_events")
        return row[0] if row is not None else None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """The facts after `gt`, and then those to come; looks for more once a second.

        Followers use `architex.followers.runner` instead, which the notifier wakes.
        """
        return PollingSubscription(self, gt, topics)


class PollingSubscription(Subscription[ApplicationRecorder]):
    """Facts as they are recorded, by asking for more."""

    def __init__(
        self, recorder: ApplicationRecorder, gt: int | None, topics: Sequence[str]
    ) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._after = gt or 0
        self._of_topics = topics
        self._waiting: list[Notification] = []
        self._stopped = StopSignal()

    def stop(self) -> None:
        """End the iteration."""
        super().stop()
        self._stopped.set()

    def __next__(self) -> Notification:
        """The next fact; waits for it."""
        while not self._waiting:
            if self._stopped.is_set():
                raise StopIteration
            found = self._recorder.select_notifications(
                self._after, 500, topics=self._of_topics, inclusive_of_start=False
            )
            self._waiting = list(reversed(found))
            if not found:
                self._stopped.wait(1.0)
        notification = self._waiting.pop()
        self._after = notification.id
        return notification


class SnapshotRecorder(AggregateRecorder):
    """Keeps the newest snapshot of each room."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Keep a snapshot instead of the room's older one."""
        with self._database.transaction() as connection:
            for stored in stored_events:
                connection.execute(UPSERT_SNAPSHOT, snapshot_row(stored))
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
        connection: PgConnection | None = None,
    ) -> Sequence[StoredEvent]:
        """The room's snapshot, if it is of a version within the bounds."""
        sql = (
            "SELECT originator_id, originator_version, topic, state FROM snapshots"
            " WHERE originator_id = %s AND originator_version > %s AND originator_version <= %s"
        )
        params = (str(originator_id), gt or 0, 2**62 if lte is None else lte)
        if connection is None:
            rows = self._database.fetch_all(sql, params)
        else:
            rows = connection.execute(sql, params).fetchall()
        return [StoredEvent(*row) for row in rows]


UPSERT_SNAPSHOT: Final = """
INSERT INTO snapshots (originator_id, originator_version, topic, state) VALUES (%s, %s, %s, %b)
ON CONFLICT (originator_id) DO UPDATE SET originator_version = excluded.originator_version,
    topic = excluded.topic, state = excluded.state
    WHERE snapshots.originator_version <= excluded.originator_version"""


class PositionTracking(TrackingRecorder):
    """How far each follower has come."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert_tracking(self, tracking: Tracking) -> None:
        """Remember a follower's position; never goes back."""
        self._database.execute(
            UPSERT_TRACKING, (tracking.application_name, tracking.notification_id)
        )

    def max_tracking_id(self, application_name: str) -> int | None:
        """The follower's position; None before its first."""
        row = self._database.fetch_one(
            "SELECT notification_id FROM tracking WHERE application_name = %s",
            (application_name,),
        )
        return row[0] if row is not None else None


UPSERT_TRACKING: Final = """
INSERT INTO tracking (application_name, notification_id) VALUES (%s, %s)
ON CONFLICT (application_name) DO UPDATE
    SET notification_id = greatest(tracking.notification_id, excluded.notification_id)"""


class RecorderFactory(InfrastructureFactory[PositionTracking]):
    """Builds the recorders and the mapper for the library's Application."""

    def __init__(self, env: Environment, database: Database, mapper: FactMapper) -> None:
        super().__init__(env)
        self._database = database
        self._mapper = mapper

    def mapper(
        self,
        transcoder: Transcoder | None = None,
        mapper_class: type[Mapper[Any]] | None = None,
    ) -> Mapper[Any]:
        """The mapper of facts."""
        return self._mapper

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """The recorder of snapshots."""
        return SnapshotRecorder(self._database)

    def application_recorder(self) -> ApplicationRecorder:
        """The recorder of facts."""
        return FactRecorder(self._database)

    def tracking_recorder(
        self, tracking_recorder_class: type[PositionTracking] | None = None
    ) -> PositionTracking:
        """The recorder of followers' positions."""
        return PositionTracking(self._database)

    def process_recorder(self) -> ProcessRecorder:
        """We have none: INLINE projections are written by the commit queue."""
        raise TypeError("use the commit queue and projections")


def fact_columns(stored: Sequence[StoredEvent], positions: Sequence[int]) -> tuple[Any, ...]:
    """The parameters of INSERT_FACTS."""
    return (
        [cast(str, event.originator_id) for event in stored],
        [event.originator_version for event in stored],
        [event.topic for event in stored],
        [event.state for event in stored],
        list(positions),
    )


def snapshot_row(stored: StoredEvent) -> tuple[Any, ...]:
    """The parameters of UPSERT_SNAPSHOT."""
    return (
        str(stored.originator_id),
        stored.originator_version,
        stored.topic,
        stored.state,
    )
