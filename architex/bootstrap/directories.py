"""How rooms and people are found: aliases, the published list, spaces, profiles, search."""

from __future__ import annotations

from dataclasses import dataclass

from architex.bootstrap.common import Common
from architex.bootstrap.core import Core
from architex.projections.base import Projection
from architex.projections.directory_reads import DirectoryReads
from architex.projections.following import CatchUp
from architex.projections.message_search import MessageSearch
from architex.projections.room_directory import RoomDirectory
from architex.projections.summary_reads import SummaryReads
from architex.projections.user_profiles import UserProfiles
from architex.storage.profiles import ProfileStore
from architex.storage.published_rooms import PublishedRoomStore
from architex.storage.room_aliases import RoomAliasStore
from architex.usecases.directory import Directory, DirectoryPolicy
from architex.usecases.mutual_rooms import MutualRooms
from architex.usecases.profiles import Profiles
from architex.usecases.public_rooms import PublicRooms
from architex.usecases.remote_queries import FederatedDirectory, FederatedProfiles
from architex.usecases.searching import Searching
from architex.usecases.spaces import RemoteSpaces, Spaces
from architex.usecases.user_directory import UserDirectory


@dataclass(frozen=True)
class DirectoryUseCases:
    """What is looked up by name, by a word, or by where it hangs."""

    directory: Directory
    public_rooms: PublicRooms
    spaces: Spaces
    profiles: Profiles
    user_directory: UserDirectory
    mutual_rooms: MutualRooms
    searching: Searching


def build_directories(common: Common) -> DirectoryUseCases:
    """What is looked up by name, by a word, or by where it hangs."""
    settings, core, rate_limits = common.settings, common.core, common.rate_limits
    database, commits, clock = core.database, core.commits, core.clock
    reads = DirectoryReads(database, core.event_log)
    remote = FederatedDirectory(common.federation, rate_limits)
    policy = DirectoryPolicy(
        aliases_require_membership=settings.rooms.aliases_require_membership,
        list_needs_account=not settings.room_directory.unauthenticated,
        anyone_may_publish=settings.room_directory.anyone_may_publish,
        over_federation=settings.room_directory.over_federation,
    )
    return DirectoryUseCases(
        directory=Directory(
            aliases=RoomAliasStore(database),
            reads=reads,
            commits=commits,
            clock=clock,
            server_name=settings.server_name,
            policy=policy,
            remote=remote,
        ),
        public_rooms=PublicRooms(
            published=PublishedRoomStore(database),
            reads=reads,
            clock=clock,
            server_name=settings.server_name,
            policy=policy,
            remote=remote,
            catch_up=_catch_up(core, RoomDirectory()),
        ),
        spaces=Spaces(
            database,
            SummaryReads(common.rendering.event_reads, settings.server_name),
            common.acls,
            RemoteSpaces(common.federation, clock, settings.server_name, rate_limits),
            clock,
            settings.server_name,
            rate_limits,
        ),
        profiles=Profiles(
            server_name=settings.server_name,
            profiles=ProfileStore(database),
            commits=commits,
            list_joined_rooms=common.members.list_joined_rooms,
            remote=FederatedProfiles(common.federation, rate_limits),
            announce=common.presence.announce_profile,
        ),
        user_directory=UserDirectory(reads, _catch_up(core, UserProfiles(), RoomDirectory())),
        mutual_rooms=MutualRooms(common.members),
        searching=Searching(_catch_up(core, MessageSearch()), database, common.rendering, clock),
    )


def _catch_up(core: Core, *projections: Projection) -> CatchUp:
    """What brings projections up to date before they are read."""
    return CatchUp(core.database, projections, monotonic=core.clock.monotonic)
