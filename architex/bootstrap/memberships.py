"""Who comes into rooms and goes, here and with the help of other servers."""

from __future__ import annotations

from dataclasses import dataclass

from architex.bootstrap.common import Common
from architex.bootstrap.directories import DirectoryUseCases
from architex.projections.event_lookup import EventLookup
from architex.projections.known_events import KnownEvents
from architex.projections.room_upgrade_reads import RoomUpgradeReads
from architex.storage.account_data import AccountDataStore
from architex.storage.forgotten_rooms import ForgottenRooms
from architex.storage.leases import LeaseStore
from architex.storage.profiles import ProfileStore
from architex.storage.push_rules import PushRuleStore
from architex.usecases.address_invites import AddressInvites
from architex.usecases.backfilling import Backfilling
from architex.usecases.doors import Doors
from architex.usecases.entering import Entering
from architex.usecases.fetching_events import FetchingEvents
from architex.usecases.handshakes import Handshakes
from architex.usecases.identity_servers import IdentityServers
from architex.usecases.importing import Importing
from architex.usecases.invite_permission import InvitePermission
from architex.usecases.inviting import Inviting
from architex.usecases.inviting_elsewhere import InvitingElsewhere
from architex.usecases.joining import Joining
from architex.usecases.remote_invites import RemoteInvites
from architex.usecases.remote_joining import RemoteJoining
from architex.usecases.remote_membership import RemoteMembership
from architex.usecases.resident import Resident
from architex.usecases.restricted_joins import RestrictedJoins
from architex.usecases.room_succession import RoomSuccession
from architex.usecases.third_party_invites import ThirdPartyInvites


@dataclass(frozen=True)
class MembershipUseCases:
    """What makes people members of rooms, and lets our server into rooms of others."""

    doors: Doors
    backfilling: Backfilling
    upgrade_reads: RoomUpgradeReads
    succession: RoomSuccession
    remote_joining: RemoteJoining
    third_party_invites: ThirdPartyInvites
    joining: Joining
    inviting: Inviting
    address_invites: AddressInvites
    remote_invites: RemoteInvites
    resident: Resident


def build_memberships(
    common: Common, directories: DirectoryUseCases, identity_servers: IdentityServers
) -> MembershipUseCases:
    """What makes people members of rooms, and lets our server into rooms of others."""
    settings, core, federation = common.settings, common.core, common.federation
    database, commits, clock = core.database, core.commits, core.clock
    profiles = ProfileStore(database)
    invite_permission = InvitePermission(AccountDataStore(database))
    restricted_joins = RestrictedJoins(
        common.members, common.room_servers, core.event_log, settings.server_name
    )
    upgrade_reads = RoomUpgradeReads(database, common.rendering.event_reads)
    succession = RoomSuccession(
        upgrade_reads,
        AccountDataStore(database),
        PushRuleStore(database),
        commits,
        directories.directory,
    )

    # How events and rooms of other servers come in.
    importing = Importing(commits, common.branches)
    doors = Doors(
        common.key_ring,
        common.judging,
        importing,
        KnownEvents(database),
        FetchingEvents(federation, clock),
        clock,
    )
    backfilling = Backfilling(core.event_log, doors, clock)

    # What other servers help our users to.
    handshakes = Handshakes(federation, commits, clock)
    remote_joining = RemoteJoining(
        client=federation,
        handshakes=handshakes,
        entering=Entering(importing, common.key_ring, EventLookup(database), clock),
        backfilling=backfilling,
        room_servers=common.room_servers,
        leases=LeaseStore(database),
        clock=clock,
        randomness=core.randomness,
    )
    inviting_elsewhere = InvitingElsewhere(
        federation, handshakes, common.key_ring, common.judging, commits
    )
    third_party_invites = ThirdPartyInvites(
        commits=commits,
        inviter=inviting_elsewhere,
        client=federation,
        identity=identity_servers.client,
        room_servers=common.room_servers,
        acls=common.acls,
        profiles=profiles,
        invite_permission=invite_permission,
        rate_limits=common.rate_limits,
        clock=clock,
    )

    joining = Joining(
        commits=commits,
        event_log=core.event_log,
        members=common.members,
        profiles=profiles,
        forgotten=ForgottenRooms(on_leave=settings.rooms.forget_on_leave),
        succession=succession,
        room_servers=common.room_servers,
        restricted=restricted_joins,
        remote_joining=remote_joining,
        remote_membership=RemoteMembership(federation, handshakes, commits),
        third_party_invites=third_party_invites,
        server_name=settings.server_name,
        notices_sender=f"@{settings.server_notices.localpart}:{settings.server_name}",
        tell_profile=directories.profiles.tell_room,
    )
    inviting = Inviting(
        commits, profiles, invite_permission, inviting_elsewhere, settings.server_name
    )
    return MembershipUseCases(
        doors=doors,
        backfilling=backfilling,
        upgrade_reads=upgrade_reads,
        succession=succession,
        remote_joining=remote_joining,
        third_party_invites=third_party_invites,
        joining=joining,
        inviting=inviting,
        address_invites=AddressInvites(commits, inviting, identity_servers, common.rate_limits),
        remote_invites=RemoteInvites(
            commits=commits,
            judging=common.judging,
            branches=common.branches,
            key_ring=common.key_ring,
            room_servers=common.room_servers,
            acls=common.acls,
            members=common.members,
            profiles=profiles,
            invite_permission=invite_permission,
            rate_limits=common.rate_limits,
        ),
        resident=Resident(
            database=database,
            commits=commits,
            judging=common.judging,
            branches=common.branches,
            key_ring=common.key_ring,
            room_servers=common.room_servers,
            acls=common.acls,
            restricted=restricted_joins,
            rate_limits=common.rate_limits,
        ),
    )
