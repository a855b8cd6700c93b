"""The core of every process: the database, the log, the way to write, the projections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from architex.domain.room.aggregate import Signer
from architex.domain.signing import SigningKey
from architex.gateways.clock import Clock, Randomness, SystemClock, SystemRandomness
from architex.gateways.timers import CallLater, call_later
from architex.projections.base import Projection
from architex.projections.current_state import CurrentState, CurrentStateFinder
from architex.projections.event_graph import EventGraph
from architex.projections.federation_outbox import FederationOutbox
from architex.projections.forgetting import ForgettingOnLeave
from architex.projections.media_references import MediaReferences
from architex.projections.memberships import Memberships
from architex.projections.message_search import MessageSearch
from architex.projections.relations import Relations
from architex.projections.room_directory import RoomDirectory
from architex.projections.timeline import Timeline
from architex.projections.typing_ends import TypingEnds
from architex.projections.user_profiles import UserProfiles
from architex.settings import Settings
from architex.storage.commit_queue import CommitQueue
from architex.storage.event_log import EventLog
from architex.storage.key_files import load_or_create_signing_key
from architex.storage.notifier import Notifier
from architex.storage.pool import Database


def inline_projections() -> tuple[Projection, ...]:
    """The projections written in the transactions that record facts."""
    return (EventGraph(), Timeline(), CurrentState(), Memberships(), Relations())


def followed_projections() -> tuple[Projection, ...]:
    """The projections that followers keep up to date."""
    return (RoomDirectory(), UserProfiles(), MessageSearch(), MediaReferences())


def all_projections() -> tuple[Projection, ...]:
    """Every projection; new instances at each call, as a rebuild wants them."""
    return (*inline_projections(), *followed_projections())


@dataclass(frozen=True)
class Core:
    """What every process of a server has: the database, the log, the way to write.

    Connections are opened on first use, so a Core may be made before a fork.
    """

    database: Database
    server_name: str
    signing_key: SigningKey
    clock: Clock
    randomness: Randomness
    call_later: CallLater = call_later
    forget_on_leave: bool = False

    @cached_property
    def event_log(self) -> EventLog:
        """The event log."""
        return EventLog(self.database)

    @cached_property
    def commits(self) -> CommitQueue:
        """The one way to write what others will read."""
        return CommitQueue(
            self.database,
            self.event_log,
            inline=(
                *inline_projections(),
                FederationOutbox(self.server_name),
                TypingEnds(),
                *([ForgettingOnLeave(self.server_name)] if self.forget_on_leave else []),
            ),
            states=CurrentStateFinder(),
            signer=Signer(self.server_name, self.signing_key),
            now_ms=self.clock.now_ms,
            new_opaque_id=lambda: self.randomness.token_urlsafe(18),
        )

    @cached_property
    def notifier(self) -> Notifier:
        """Wakes whoever waits for news."""
        return Notifier(self.database.conninfo)

    def close(self) -> None:
        """End its threads and give the connections back; it cannot be used afterwards."""
        self.notifier.stop()
        self.commits.close()
        self.database.close()


def build_core(
    settings: Settings,
    *,
    conninfo: str | None = None,
    clock: Clock | None = None,
    randomness: Randomness | None = None,
    call_later: CallLater = call_later,
    application_name: str = "architex",
) -> Core:
    """The core of a process.

    Args:
        conninfo: how to connect; by default what the settings say.
        clock, randomness, call_later: by default the machine's.
    """
    randomness = randomness or SystemRandomness()
    return Core(
        database=Database(
            conninfo or settings.conninfo,
            max_size=settings.processes.database_connections,
            application_name=application_name,
        ),
        server_name=settings.server_name,
        signing_key=load_or_create_signing_key(settings.signing_key_path, randomness.bytes),
        clock=clock or SystemClock(),
        randomness=randomness,
        call_later=call_later,
        forget_on_leave=settings.rooms.forget_on_leave,
    )
