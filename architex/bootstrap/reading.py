"""What is read of rooms: by sync, by the page, by place and time; and what makes it unread."""

from __future__ import annotations

from dataclasses import dataclass

from architex.bootstrap.common import Common
from architex.projections.event_lookup import EventLookup
from architex.storage.filters import FilterStore
from architex.storage.lazy_members import LazyMemberStore
from architex.storage.published_rooms import PublishedRoomStore
from architex.usecases.backfilling_history import BackfillingHistory
from architex.usecases.doors import Doors
from architex.usecases.filters import Filters
from architex.usecases.finding_by_time import FindingByTime
from architex.usecases.notifications import Notifications
from architex.usecases.old_sync import OldSyncing
from architex.usecases.peeking import Peeking
from architex.usecases.relating import Relating
from architex.usecases.room_reading import RoomReading
from architex.usecases.serving_history import ServingHistory
from architex.usecases.sync_rooms import SyncRooms
from architex.usecases.syncing import Syncing
from architex.usecases.unread_counts import UnreadCounts


@dataclass(frozen=True)
class ReadingUseCases:
    """What is read of rooms."""

    room_reading: RoomReading
    finding_by_time: FindingByTime
    relating: Relating
    notifications: Notifications
    filters: Filters
    syncing: Syncing
    old_syncing: OldSyncing
    peeking: Peeking
    serving_history: ServingHistory


def build_reading(common: Common, doors: Doors) -> ReadingUseCases:
    """What is read of rooms.

    Args:
        doors: through which history comes that this server does not have yet.
    """
    settings, core, rendering = common.settings, common.core, common.rendering
    database, clock = core.database, core.clock
    history = BackfillingHistory(
        database=database,
        event_log=core.event_log,
        servers=common.room_servers,
        doors=doors,
        clock=clock,
        server_name=settings.server_name,
    )
    room_reading = RoomReading(database, rendering, clock, history)
    syncing = Syncing(
        database,
        SyncRooms(rendering),
        core.notifier,
        LazyMemberStore(database),
        common.presence,
        clock,
        UnreadCounts(rendering.event_reads),
        reads_at_once=max(1, settings.processes.database_connections // 2),
    )
    return ReadingUseCases(
        room_reading=room_reading,
        finding_by_time=FindingByTime(
            database,
            rendering,
            common.room_servers,
            common.federation,
            history,
            clock,
            settings.server_name,
        ),
        relating=Relating(database, rendering, clock),
        notifications=Notifications(database, rendering, clock),
        filters=Filters(FilterStore(database)),
        syncing=syncing,
        old_syncing=OldSyncing(
            database,
            syncing,
            room_reading,
            rendering.event_reads,
            EventLookup(database),
            PublishedRoomStore(database),
            clock,
        ),
        peeking=Peeking(database, rendering, core.notifier, PublishedRoomStore(database), clock),
        serving_history=ServingHistory(
            database,
            common.room_servers,
            common.acls,
            clock,
            settings.server_name,
            common.rate_limits,
        ),
    )
