"""What use cases of several subjects share: above all, whatever remembers something."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from architex.bootstrap.core import Core
from architex.bootstrap.federation import build_key_ring
from architex.gateways.federation_client import FederationClient
from architex.projections.branch_states import BranchStates
from architex.projections.member_reads import MemberReads
from architex.projections.room_servers import RoomServers
from architex.projections.server_acls import ServerAcls
from architex.settings import Settings
from architex.storage.presence import PresenceStore
from architex.usecases.event_rendering import EventRendering
from architex.usecases.judging import Judging
from architex.usecases.presence import PresenceUpdates
from architex.usecases.rate_limits import RateLimit, RateLimits
from architex.usecases.server_keys import KeyRing


@dataclass(frozen=True)
class Common:
    """The settings, the core, and what stands once in a process for everybody.

    Attributes:
        federation: how other servers are asked.
    """

    settings: Settings
    core: Core
    federation: FederationClient
    key_ring: KeyRing
    rate_limits: RateLimits
    members: MemberReads
    room_servers: RoomServers
    acls: ServerAcls
    branches: BranchStates
    judging: Judging
    rendering: EventRendering
    presence: PresenceUpdates


def build_common(settings: Settings, core: Core, federation: FederationClient) -> Common:
    """What stands once in a process for everybody."""
    database = core.database
    members, branches = MemberReads(database), BranchStates()
    return Common(
        settings=settings,
        core=core,
        federation=federation,
        key_ring=build_key_ring(settings, core, federation),
        rate_limits=RateLimits(
            core.clock, _limits(settings), enabled=settings.rate_limits.enabled
        ),
        members=members,
        room_servers=RoomServers(database),
        acls=ServerAcls(database),
        branches=branches,
        judging=Judging(core.commits, branches, members),
        rendering=EventRendering(),
        presence=PresenceUpdates(
            PresenceStore(database), core.commits, core.clock, enabled=settings.presence.enabled
        ),
    )


def _limits(settings: Settings) -> dict[str, RateLimit]:
    """The rate limits by kind, which is their name in the settings."""
    limits = {
        kind.name: getattr(settings.rate_limits, kind.name)
        for kind in dataclasses.fields(settings.rate_limits)
        if kind.name != "enabled"
    }
    return {kind: RateLimit(limit.per_second, limit.burst) for kind, limit in limits.items()}
