"""Everything that can be intended, over a core."""

from __future__ import annotations

import dataclasses

from architex.bootstrap.core import Core
from architex.bootstrap.federation import (
    build_device_lists,
    build_federation_client,
    build_key_ring,
    build_remote_keys,
)
from architex.bootstrap.media import build_media
from architex.bootstrap.outside import build_emails, build_outbound_http, build_outside_stages
from architex.domain.identifiers import UserId
from architex.gateways.federation_client import FederationClient
from architex.gateways.identity_server import HttpIdentityServerClient
from architex.gateways.passwords import Argon2Passwords
from architex.projections.base import Projection
from architex.projections.branch_states import BranchStates
from architex.projections.device_list_reads import SharedRooms
from architex.projections.directory_reads import DirectoryReads
from architex.projections.event_lookup import EventLookup
from architex.projections.following import CatchUp
from architex.projections.known_events import KnownEvents
from architex.projections.member_reads import MemberReads
from architex.projections.message_search import MessageSearch
from architex.projections.notice_reads import NoticeReads
from architex.projections.room_directory import RoomDirectory
from architex.projections.room_servers import RoomServers
from architex.projections.room_upgrade_reads import RoomUpgradeReads
from architex.projections.server_acls import ServerAcls
from architex.projections.summary_reads import SummaryReads
from architex.projections.user_profiles import UserProfiles
from architex.settings import Settings
from architex.storage.access_tokens import AccessTokenStore
from architex.storage.account_data import AccountDataStore
from architex.storage.accounts import AccountStore
from architex.storage.dehydrated_devices import DehydratedDeviceStore
from architex.storage.device_keys import DeviceKeyStore
from architex.storage.devices import DeviceStore
from architex.storage.filters import FilterStore
from architex.storage.forgotten_rooms import ForgottenRooms
from architex.storage.interactive_auth_sessions import InteractiveAuthSessionStore
from architex.storage.key_backups import KeyBackupStore
from architex.storage.lazy_members import LazyMemberStore
from architex.storage.leases import LeaseStore
from architex.storage.login_tokens import LoginTokenStore
from architex.storage.one_time_keys import OneTimeKeyStore
from architex.storage.openid_tokens import OpenIdTokenStore
from architex.storage.presence import PresenceStore
from architex.storage.profiles import ProfileStore
from architex.storage.published_rooms import PublishedRoomStore
from architex.storage.push_rules import PushRuleStore
from architex.storage.pushers import PusherStore
from architex.storage.received_transactions import ReceivedTransactions
from architex.storage.registration_tokens import RegistrationTokenStore
from architex.storage.remote_devices import RemoteDeviceStore
from architex.storage.reports import ReportStore
from architex.storage.room_aliases import RoomAliasStore
from architex.storage.user_addresses import UserAddressStore
from architex.storage.waiting_pdus import WaitingPdus
from architex.usecases.account_data import AccountData
from architex.usecases.account_moderation import AccountModeration
from architex.usecases.accounts import Accounts
from architex.usecases.address_invites import AddressInvites
from architex.usecases.backfilling import Backfilling
from architex.usecases.backfilling_history import BackfillingHistory
from architex.usecases.catalogue import UseCases
from architex.usecases.cross_signing import CrossSigning
from architex.usecases.dehydrated_devices import DehydratedDevices
from architex.usecases.devices import Devices
from architex.usecases.directory import Directory, DirectoryPolicy, PublicRooms
from architex.usecases.doors import Doors
from architex.usecases.encryption_keys import EncryptionKeys
from architex.usecases.entering import Entering
from architex.usecases.event_rendering import EventRendering
from architex.usecases.fetching_events import FetchingEvents
from architex.usecases.filters import Filters
from architex.usecases.finding_by_time import FindingByTime
from architex.usecases.handshakes import Handshakes
from architex.usecases.identity_servers import IdentityServers
from architex.usecases.importing import Importing
from architex.usecases.interactive_auth import InteractiveAuth
from architex.usecases.invite_permission import InvitePermission
from architex.usecases.inviting_elsewhere import InvitingElsewhere
from architex.usecases.joining import Joining
from architex.usecases.judging import Judging
from architex.usecases.key_backups import KeyBackups
from architex.usecases.login import Login
from architex.usecases.login_tokens import LoginTokens
from architex.usecases.mutual_rooms import MutualRooms
from architex.usecases.notifications import Notifications
from architex.usecases.old_sync import OldSyncing
from architex.usecases.openid import OpenId
from architex.usecases.password_check import PasswordCheck
from architex.usecases.peeking import Peeking
from architex.usecases.policy_servers import PolicyServers
from architex.usecases.presence import PresenceUpdates
from architex.usecases.profiles import Profiles
from architex.usecases.push_rules import PushRules
from architex.usecases.pushers import Pushers
from architex.usecases.rate_limits import RateLimit, RateLimits
from architex.usecases.receipts import Receipts
from architex.usecases.receiving import Receiving
from architex.usecases.receiving_devices import DeviceEdus
from architex.usecases.receiving_edus import EduHandler, ReceivingEdus, RoomEdus
from architex.usecases.registration import Registration, RegistrationPolicy
from architex.usecases.relating import Relating
from architex.usecases.remote_invites import RemoteInvites
from architex.usecases.remote_joining import RemoteJoining
from architex.usecases.remote_membership import RemoteMembership
from architex.usecases.remote_queries import FederatedDirectory, FederatedProfiles
from architex.usecases.reporting import Reporting
from architex.usecases.requester import Requester
from architex.usecases.resident import Resident
from architex.usecases.restricted_joins import RestrictedJoins
from architex.usecases.room_creation import RoomCreation
from architex.usecases.room_reading import RoomReading
from architex.usecases.room_succession import RoomSuccession
from architex.usecases.room_upgrades import RoomUpgrades
from architex.usecases.searching import Searching
from architex.usecases.sending import Sending
from architex.usecases.server_notices import ServerNotices
from architex.usecases.serving_history import ServingHistory
from architex.usecases.sessions import Sessions
from architex.usecases.spaces import RemoteSpaces, Spaces
from architex.usecases.sync_rooms import SyncRooms
from architex.usecases.syncing import Syncing
from architex.usecases.third_party_identifiers import ThirdPartyIdentifiers
from architex.usecases.third_party_invites import ThirdPartyInvites
from architex.usecases.timed_cache import TimedCache
from architex.usecases.to_device import ToDevice
from architex.usecases.turn_servers import TurnServers
from architex.usecases.typing import Typing
from architex.usecases.unread_counts import UnreadCounts
from architex.usecases.user_directory import UserDirectory
from architex.usecases.whois import Whois


def build_use_cases(
    settings: Settings, core: Core, federation: FederationClient | None = None
) -> UseCases:
    """Everything that can be intended, over a core.

    Args:
        federation: how other servers are asked; by default as the settings say.
    """
    federation = federation or build_federation_client(settings, core)
    database, commits, clock, chance = core.database, core.commits, core.clock, core.randomness
    accounts = AccountStore(database)
    profile_store = ProfileStore(database)
    tokens = RegistrationTokenStore(database)
    devices = DeviceStore(database)
    members = MemberReads(database)
    room_servers, server_acls = RoomServers(database), ServerAcls(database)
    branches = BranchStates()
    commits.policy_servers = PolicyServers(federation, clock, TimedCache(clock, max_entries=1000))
    judging = Judging(commits, branches, members)
    key_ring = build_key_ring(settings, core, federation)
    rate_limits = RateLimits(clock, _limits(settings), enabled=settings.rate_limits.enabled)
    media = build_media(settings, core, federation, rate_limits)
    passwords = Argon2Passwords(weak=settings.registration.weak_password_hashing)
    addresses = UserAddressStore(database)
    password_check = PasswordCheck(
        settings.server_name, accounts, passwords, rate_limits, addresses
    )
    outbound = build_outbound_http(settings, clock)
    emails = build_emails(settings, core, rate_limits)
    identity_servers = IdentityServers(
        HttpIdentityServerClient(outbound, settings.server_name, core.signing_key),
        [name.lower() for name in settings.identity.trusted_servers],
    )
    device_lists = build_device_lists(core)
    device_keys = DeviceKeyStore(database)
    remote_keys = build_remote_keys(settings, core, federation)
    sessions = Sessions(AccessTokenStore(database), devices, device_lists, clock, chance)
    interactive_auth = InteractiveAuth(
        InteractiveAuthSessionStore(database),
        password_check,
        tokens,
        rate_limits,
        clock,
        chance,
        build_outside_stages(settings, outbound, emails, addresses),
    )
    third_party_identifiers = ThirdPartyIdentifiers(
        addresses, emails, interactive_auth, identity_servers, rate_limits
    )
    login_tokens = LoginTokens(
        LoginTokenStore(database), interactive_auth, rate_limits, clock, chance
    )
    directory_policy = DirectoryPolicy(
        aliases_require_membership=settings.rooms.aliases_require_membership,
        list_needs_account=not settings.room_directory.unauthenticated,
        anyone_may_publish=settings.room_directory.anyone_may_publish,
        over_federation=settings.room_directory.over_federation,
    )
    remote_directory = FederatedDirectory(federation, clock, rate_limits)
    directory_reads = DirectoryReads(database, core.event_log)
    rendering = EventRendering()
    presence = PresenceUpdates(
        PresenceStore(database), commits, clock, enabled=settings.presence.enabled
    )
    directory = Directory(
        aliases=RoomAliasStore(database),
        reads=directory_reads,
        commits=commits,
        clock=clock,
        server_name=settings.server_name,
        policy=directory_policy,
        remote=remote_directory,
    )
    upgrade_reads = RoomUpgradeReads(database, rendering.event_reads)
    push_rule_store = PushRuleStore(database)
    push_rules = PushRules(push_rule_store, commits)
    succession = RoomSuccession(
        upgrade_reads, AccountDataStore(database), push_rule_store, commits, directory
    )
    restricted_joins = RestrictedJoins(members, room_servers, core.event_log, settings.server_name)
    importing = Importing(commits, branches)
    doors = Doors(
        key_ring,
        judging,
        importing,
        KnownEvents(database),
        FetchingEvents(federation, clock),
        clock,
    )
    backfilling = Backfilling(core.event_log, doors, clock)
    history = BackfillingHistory(
        database=database,
        event_log=core.event_log,
        servers=room_servers,
        doors=doors,
        clock=clock,
        server_name=settings.server_name,
    )
    handshakes = Handshakes(federation, commits, clock)
    remote_joining = RemoteJoining(
        client=federation,
        handshakes=handshakes,
        entering=Entering(importing, key_ring, EventLookup(database), clock),
        backfilling=backfilling,
        room_servers=room_servers,
        leases=LeaseStore(database),
        clock=clock,
        randomness=chance,
    )
    inviting_elsewhere = InvitingElsewhere(federation, handshakes, key_ring, judging, commits)
    invite_permission = InvitePermission(AccountDataStore(database))
    third_party_invites = ThirdPartyInvites(
        commits=commits,
        inviter=inviting_elsewhere,
        client=federation,
        identity=identity_servers.client,
        room_servers=room_servers,
        acls=server_acls,
        profiles=profile_store,
        invite_permission=invite_permission,
        rate_limits=rate_limits,
        clock=clock,
    )
    profiles = Profiles(
        server_name=settings.server_name,
        profiles=profile_store,
        commits=commits,
        list_joined_rooms=members.list_joined_rooms,
        remote=FederatedProfiles(federation, rate_limits),
        announce=presence.announce_profile,
    )
    joining = Joining(
        commits=commits,
        event_log=core.event_log,
        members=members,
        profiles=profile_store,
        forgotten=ForgottenRooms(on_leave=settings.rooms.forget_on_leave),
        succession=succession,
        room_servers=room_servers,
        restricted=restricted_joins,
        remote_joining=remote_joining,
        remote_membership=RemoteMembership(federation, handshakes, commits),
        inviting_elsewhere=inviting_elsewhere,
        third_party_invites=third_party_invites,
        invite_permission=invite_permission,
        server_name=settings.server_name,
        notices_sender=f"@{settings.server_notices.localpart}:{settings.server_name}",
        tell_profile=profiles.tell_room,
    )

    address_invites = AddressInvites(commits, joining, identity_servers, rate_limits)

    typing = Typing(database, commits, clock, core.call_later)
    receipts = Receipts(database, rendering.event_reads, commits, clock)
    room_edus = RoomEdus(typing, receipts, presence, core.event_log, server_acls)
    to_device = ToDevice(commits, clock, chance, settings.server_name)
    device_edus = DeviceEdus(
        to_device=to_device,
        remote=remote_keys,
        lists=RemoteDeviceStore(database, settings.server_name),
        shared_rooms=SharedRooms(database),
        commits=commits,
        server_name=settings.server_name,
    )
    edu_handlers: dict[str, EduHandler] = {**room_edus.handlers(), **device_edus.handlers()}

    def leave_all_rooms(user_id: UserId) -> None:
        joining.leave_all(Requester(user_id))

    def reject_invites(user_id: UserId) -> None:
        joining.reject_all(Requester(user_id))

    remote_invites = RemoteInvites(
        commits=commits,
        branches=branches,
        key_ring=key_ring,
        room_servers=room_servers,
        acls=server_acls,
        members=members,
        profiles=profile_store,
        invite_permission=invite_permission,
        rate_limits=rate_limits,
    )

    room_reading = RoomReading(database, rendering, clock, history)
    syncing = Syncing(
        database,
        SyncRooms(rendering),
        core.notifier,
        LazyMemberStore(database),
        presence,
        clock,
        UnreadCounts(rendering.event_reads),
        reads_at_once=max(1, settings.processes.database_connections // 2),
    )
    return UseCases(
        account_data=AccountData(AccountDataStore(database), commits, push_rules),
        account_moderation=AccountModeration(accounts, settings.server_name),
        accounts=Accounts(
            accounts=accounts,
            sessions=sessions,
            interactive_auth=interactive_auth,
            passwords=passwords,
            clock=clock,
            leave_all_rooms=leave_all_rooms,
            reject_invites=reject_invites,
            unpublish=third_party_identifiers.unbind_all,
            emails=emails.is_possible,
        ),
        address_invites=address_invites,
        emails=emails,
        cross_signing=CrossSigning(
            device_keys, device_lists, remote_keys, interactive_auth, clock
        ),
        dehydrated_devices=DehydratedDevices(
            database,
            DehydratedDeviceStore(database),
            devices,
            device_keys,
            device_lists,
            clock,
        ),
        devices=Devices(devices, device_lists, interactive_auth),
        encryption_keys=EncryptionKeys(
            database=database,
            keys=device_keys,
            one_time_keys=OneTimeKeyStore(database),
            device_lists=device_lists,
            remote=remote_keys,
            clock=clock,
            server_name=settings.server_name,
        ),
        key_backups=KeyBackups(
            KeyBackupStore(database),
            max_bytes=settings.encryption.max_backup_bytes_per_user,
            info_uri=settings.public_base_url,
        ),
        thumbnails=media.thumbnails,
        to_device=to_device,
        directory=directory,
        filters=Filters(FilterStore(database)),
        finding_by_time=FindingByTime(
            database, rendering, room_servers, federation, history, clock, settings.server_name
        ),
        interactive_auth=interactive_auth,
        joining=joining,
        key_ring=key_ring,
        login=Login(accounts, password_check, sessions, rate_limits, login_tokens, device_keys),
        login_tokens=login_tokens,
        media_care=media.care,
        media_reading=media.reading,
        media_uploads=media.uploads,
        mutual_rooms=MutualRooms(members),
        notifications=Notifications(database, rendering, clock),
        openid=OpenId(OpenIdTokenStore(database), settings.server_name, clock, chance),
        profiles=profiles,
        public_rooms=PublicRooms(
            published=PublishedRoomStore(database),
            reads=directory_reads,
            clock=clock,
            server_name=settings.server_name,
            policy=directory_policy,
            remote=remote_directory,
            catch_up=_catch_up(core, RoomDirectory()),
        ),
        push_rules=push_rules,
        pushers=Pushers(PusherStore(database), clock),
        rate_limits=rate_limits,
        remote_invites=remote_invites,
        resident=Resident(
            database=database,
            commits=commits,
            judging=judging,
            branches=branches,
            key_ring=key_ring,
            room_servers=room_servers,
            acls=server_acls,
            restricted=restricted_joins,
            rate_limits=rate_limits,
        ),
        registration=Registration(
            server_name=settings.server_name,
            policy=RegistrationPolicy(
                enabled=settings.registration.enabled,
                guests=settings.registration.guests,
                tokens_required=settings.registration.tokens_required,
                shared_secret=settings.registration.shared_secret,
                emails=emails.is_possible,
                email_required=settings.registration.email_required,
                captcha=None if settings.recaptcha is None else settings.recaptcha.required,
                terms=None if settings.terms is None else settings.terms.version,
                reserved=frozenset({settings.server_notices.localpart}),
            ),
            accounts=accounts,
            registration_tokens=tokens,
            sessions=sessions,
            interactive_auth=interactive_auth,
            passwords=passwords,
            rate_limits=rate_limits,
            clock=clock,
            randomness=chance,
        ),
        room_creation=RoomCreation(
            commits=commits,
            joining=joining,
            address_invites=address_invites,
            directory=directory,
            clock=clock,
            randomness=chance,
            server_name=settings.server_name,
            default_version=settings.rooms.default_version,
        ),
        room_upgrades=RoomUpgrades(
            commits=commits,
            reads=upgrade_reads,
            joining=joining,
            directory=directory,
            succession=succession,
            clock=clock,
            randomness=chance,
            server_name=settings.server_name,
        ),
        reporting=Reporting(
            reports=ReportStore(database),
            accounts=accounts,
            event_log=core.event_log,
            events=EventLookup(database),
            members=members,
            rate_limits=rate_limits,
            server_name=settings.server_name,
            clock=clock,
        ),
        searching=Searching(_catch_up(core, MessageSearch()), database, rendering, clock),
        sending=Sending(
            commits=commits, events=EventLookup(database), aliases=directory, memberships=joining
        ),
        serving_history=ServingHistory(
            database, room_servers, server_acls, clock, settings.server_name, rate_limits
        ),
        spaces=Spaces(
            database,
            SummaryReads(rendering.event_reads, settings.server_name),
            server_acls,
            RemoteSpaces(federation, clock, settings.server_name, rate_limits),
            clock,
            settings.server_name,
            rate_limits,
        ),
        sessions=sessions,
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
        presence=presence,
        receipts=receipts,
        receiving=Receiving(
            event_log=core.event_log,
            acls=server_acls,
            backfilling=backfilling,
            edus=ReceivingEdus(edu_handlers),
            transactions=ReceivedTransactions(database),
            waiting=WaitingPdus(database),
            rate_limits=rate_limits,
            clock=clock,
            server_name=settings.server_name,
            take_elsewhere=remote_invites.take_back,
            is_entering=remote_joining.is_entering,
        ),
        relating=Relating(database, rendering, clock),
        room_reading=room_reading,
        syncing=syncing,
        turn_servers=TurnServers(
            clock,
            settings.turn.uris,
            settings.turn.static_auth_secret,
            settings.turn.lifetime_seconds,
            settings.turn.guests,
        ),
        typing=typing,
        third_party_identifiers=third_party_identifiers,
        third_party_invites=third_party_invites,
        url_previews=media.url_previews,
        user_directory=UserDirectory(
            directory_reads, _catch_up(core, UserProfiles(), RoomDirectory())
        ),
        whois=Whois(accounts, devices),
    )


def _catch_up(core: Core, *projections: Projection) -> CatchUp:
    """What brings projections up to date before they are read."""
    return CatchUp(core.database, projections, monotonic=core.clock.monotonic)


def _limits(settings: Settings) -> dict[str, RateLimit]:
    """The rate limits by kind, which is their name in the settings."""
    limits = {
        kind.name: getattr(settings.rate_limits, kind.name)
        for kind in dataclasses.fields(settings.rate_limits)
        if kind.name != "enabled"
    }
    return {kind: RateLimit(limit.per_second, limit.burst) for kind, limit in limits.items()}


def build_server_notices(settings: Settings, core: Core, use_cases: UseCases) -> ServerNotices:
    """What tells users something in the name of the server."""
    return ServerNotices(
        accounts=AccountStore(core.database),
        registration=use_cases.registration,
        profiles=use_cases.profiles,
        account_data=use_cases.account_data,
        rooms=use_cases.room_creation,
        sending=use_cases.sending,
        commits=core.commits,
        reads=NoticeReads(core.database),
        randomness=core.randomness,
        server_name=settings.server_name,
        localpart=settings.server_notices.localpart,
        name=settings.server_notices.name,
    )
