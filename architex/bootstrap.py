"""The composition root: the only place where objects are wired together."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from minio import Minio

from architex import __version__
from architex.api.app import create_app
from architex.api.authentication import Authenticator
from architex.api.client.routes import client_routes
from architex.api.federation.authentication import ServerAuthenticator
from architex.api.federation.routes import federation_routes
from architex.api.middleware import WsgiApp
from architex.api.routing import Route, under_client_versions
from architex.api.server_routes import server_routes
from architex.api.shutdown import stopping
from architex.api.static_pages import Health, WelcomePage
from architex.api.well_known import WellKnown
from architex.domain.identifiers import ServerName, UserId
from architex.domain.room.aggregate import Signer
from architex.domain.signing import SigningKey
from architex.followers.federation_sender import FederationSender
from architex.followers.housekeeping import (
    Chore,
    Housekeeping,
    chores_of_devices,
    chores_of_media,
    chores_of_receiving,
    chores_of_sending,
    chores_of_time,
)
from architex.followers.metrics_exporter import DatabaseCollector, serve_metrics
from architex.followers.projector import projectors
from architex.followers.runner import run_all
from architex.followers.workers import Workers
from architex.gateways.captcha import Recaptcha
from architex.gateways.clock import Clock, Randomness, SystemClock, SystemRandomness
from architex.gateways.email import Mailer, SmtpMailer
from architex.gateways.federation_client import (
    FederationClient,
    NoFederation,
    SignedFederationClient,
)
from architex.gateways.http import Blocklist, OutboundHttp
from architex.gateways.identity_server import HttpIdentityServerClient
from architex.gateways.media_files import LocalMediaFiles, MediaFiles
from architex.gateways.name_lookup import SystemNames
from architex.gateways.off_loop import OffLoop
from architex.gateways.passwords import Argon2Passwords
from architex.gateways.s3_media_files import S3MediaFiles
from architex.gateways.server_discovery import ServerDiscovery
from architex.gateways.thumbnailer import ChildThumbnailer
from architex.gateways.timers import call_later
from architex.projections.base import Projection
from architex.projections.branch_states import BranchStates
from architex.projections.current_state import CurrentState, CurrentStateFinder
from architex.projections.device_list_reads import SharedRooms
from architex.projections.directory_reads import DirectoryReads
from architex.projections.event_graph import EventGraph
from architex.projections.event_lookup import EventLookup
from architex.projections.federation_outbox import (
    FederationOutbox,
    forget_delivered_events,
    forget_oldest_events,
)
from architex.projections.forgetting import ForgettingOnLeave
from architex.projections.guest_reads import GuestReads
from architex.projections.known_events import KnownEvents
from architex.projections.media_references import MediaReferences, RedactedMedia
from architex.projections.member_reads import MemberReads
from architex.projections.memberships import Memberships
from architex.projections.message_search import MessageSearch
from architex.projections.notice_reads import NoticeReads
from architex.projections.outgoing_device_edus import DeviceListEdus, ToDeviceEdus
from architex.projections.outgoing_edus import EduSource, PresenceEdus, ReceiptEdus, TypingEdus
from architex.projections.relations import Relations
from architex.projections.room_directory import RoomDirectory
from architex.projections.room_servers import RoomServers
from architex.projections.room_upgrade_reads import RoomUpgradeReads
from architex.projections.server_acls import ServerAcls
from architex.projections.summary_reads import SummaryReads
from architex.projections.timeline import Timeline
from architex.projections.user_profiles import UserProfiles
from architex.settings import PRIVATE_NETWORKS, Settings
from architex.storage.access_tokens import AccessTokenStore
from architex.storage.account_data import AccountDataStore
from architex.storage.accounts import AccountStore
from architex.storage.commit_queue import CommitQueue
from architex.storage.destinations import Destinations
from architex.storage.device_keys import DeviceKeyStore
from architex.storage.device_lists import DeviceListStore
from architex.storage.devices import DeviceStore
from architex.storage.email_validations import EmailValidationStore
from architex.storage.event_log import EventLog
from architex.storage.expiries import Expiries
from architex.storage.figures import FIGURES, read_figures, read_lags
from architex.storage.filters import FilterStore
from architex.storage.forgotten_rooms import ForgottenRooms
from architex.storage.interactive_auth_sessions import InteractiveAuthSessionStore
from architex.storage.key_backups import KeyBackupStore
from architex.storage.key_files import load_or_create_signing_key, load_signing_key
from architex.storage.lazy_members import LazyMemberStore
from architex.storage.leases import LeaseStore
from architex.storage.login_tokens import LoginTokenStore
from architex.storage.media import MediaStore
from architex.storage.notifier import Notifier
from architex.storage.one_time_keys import OneTimeKeyStore
from architex.storage.openid_tokens import OpenIdTokenStore
from architex.storage.pool import Database
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
from architex.storage.server_keys import ServerKeyStore
from architex.storage.to_device import ToDeviceStore
from architex.storage.transactions import Transactions
from architex.storage.url_previews import UrlPreviewStore
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
from architex.usecases.device_lists import DeviceLists
from architex.usecases.devices import Devices
from architex.usecases.directory import (
    Directory,
    DirectoryPolicy,
    PublicRooms,
)
from architex.usecases.doors import Doors
from architex.usecases.email_validation import EmailValidations
from architex.usecases.encryption_keys import EncryptionKeys
from architex.usecases.entering import Entering
from architex.usecases.event_rendering import EventRendering
from architex.usecases.federation_check import FederationCheck
from architex.usecases.fetching_events import FetchingEvents
from architex.usecases.filters import Filters
from architex.usecases.finding_by_time import FindingByTime
from architex.usecases.guest_access import GuestAccess
from architex.usecases.identity_servers import IdentityServers
from architex.usecases.importing import Importing
from architex.usecases.interactive_auth import RECAPTCHA, TERMS, InteractiveAuth, OutsideStages
from architex.usecases.invite_permission import InvitePermission
from architex.usecases.joining import Joining
from architex.usecases.judging import Judging
from architex.usecases.key_backups import KeyBackups
from architex.usecases.login import Login
from architex.usecases.login_tokens import LoginTokens
from architex.usecases.media_care import MediaCare, Retention
from architex.usecases.media_reading import MediaReading
from architex.usecases.media_uploads import MediaPolicy, MediaUploads
from architex.usecases.mutual_rooms import MutualRooms
from architex.usecases.notifications import Notifications
from architex.usecases.old_sync import OldSyncing
from architex.usecases.openid import OpenId
from architex.usecases.password_check import PasswordCheck
from architex.usecases.peeking import Peeking
from architex.usecases.policy_servers import PolicyServers
from architex.usecases.presence import PresenceUpdates, presence_content
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
from architex.usecases.remote_keys import RemoteKeys
from architex.usecases.remote_media import RemoteMedia
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
from architex.usecases.server_keys import KeyRing, OldKey
from architex.usecases.server_notices import ServerNotices
from architex.usecases.serving_history import ServingHistory
from architex.usecases.sessions import Sessions
from architex.usecases.spaces import RemoteSpaces, Spaces
from architex.usecases.sync_rooms import SyncRooms
from architex.usecases.syncing import Syncing
from architex.usecases.third_party_identifiers import ThirdPartyIdentifiers
from architex.usecases.third_party_invites import ThirdPartyInvites
from architex.usecases.thumbnails import Thumbnails
from architex.usecases.timed_cache import TimedCache
from architex.usecases.to_device import ToDevice
from architex.usecases.turn_servers import TurnServers
from architex.usecases.typing import Typing
from architex.usecases.unread_counts import UnreadCounts
from architex.usecases.url_previews import UrlPreviews
from architex.usecases.user_directory import UserDirectory
from architex.usecases.whois import Whois

log = logging.getLogger(__name__)

MAX_PREVIEW_PICTURE_BYTES = 10 * 1024 * 1024
"""Larger pictures are left out of previews of web pages."""


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


def build_core(
    settings: Settings,
    *,
    conninfo: str | None = None,
    clock: Clock | None = None,
    randomness: Randomness | None = None,
    application_name: str = "architex",
) -> Core:
    """The core of a process.

    Args:
        conninfo: how to connect; by default what the settings say.
        clock, randomness: by default the machine's.
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
        forget_on_leave=settings.rooms.forget_on_leave,
    )


def build_federation_client(settings: Settings, core: Core) -> FederationClient:
    """How this process asks other servers."""
    if not settings.federation.enabled:
        return NoFederation()
    names = SystemNames()
    http = _federation_http(settings, names, core.clock, settings.federation.ip_blocklist)
    discovery = ServerDiscovery(http, names, core.clock, core.randomness)
    return SignedFederationClient(
        http, discovery, core.server_name, core.signing_key, core.clock, core.randomness
    )


def _federation_http(
    settings: Settings, names: SystemNames, clock: Clock, blocked_networks: Sequence[str]
) -> OutboundHttp:
    """The HTTP client for other homeservers."""
    return OutboundHttp(
        names,
        clock,
        blocked_networks=blocked_networks,
        ca_file=settings.federation.ca_file,
        user_agent=f"Architex/{__version__}",
    )


def build_federation_check(settings: Settings, server_name: ServerName) -> FederationCheck:
    """What looks at one server, ours or another, as others see it. Needs no database."""
    names, clock = SystemNames(), SystemClock()
    is_own = server_name == settings.server_name
    # Our own name may well lead to a private address from here.
    blocked = () if is_own else settings.federation.ip_blocklist
    http = _federation_http(settings, names, clock, blocked)
    own_key = None
    if is_own and settings.signing_key_path.exists():
        own_key = load_signing_key(settings.signing_key_path)
    return FederationCheck(
        discovery=ServerDiscovery(http, names, clock, SystemRandomness()),
        http=http,
        names=names,
        clock=clock,
        private=Blocklist(PRIVATE_NETWORKS),
        own_key=own_key,
    )


def build_key_ring(settings: Settings, core: Core, client: FederationClient) -> KeyRing:
    """The keys of other servers, and ours."""
    return KeyRing(
        ServerKeyStore(core.database),
        client,
        core.clock,
        server_name=core.server_name,
        signing_key=core.signing_key,
        old_keys=[
            OldKey(old.key_id, old.key, old.expired_ts) for old in settings.federation.old_keys
        ],
        notaries=settings.federation.notaries,
    )


def build_device_lists(core: Core) -> DeviceLists:
    """How changes of our users' devices are written and announced."""
    database = core.database
    return DeviceLists(DeviceListStore(database), SharedRooms(database), core.commits, core.clock)


def build_remote_keys(settings: Settings, core: Core, federation: FederationClient) -> RemoteKeys:
    """The keys of users on other servers."""
    database = core.database
    return RemoteKeys(
        database,
        federation,
        RemoteDeviceStore(database, settings.server_name),
        DeviceKeyStore(database),
        SharedRooms(database),
        core.commits,
        core.clock,
        settings.server_name,
        call_later,
    )


@dataclass(frozen=True)
class MediaUseCases:
    """What is done with media."""

    uploads: MediaUploads
    reading: MediaReading
    thumbnails: Thumbnails
    care: MediaCare
    url_previews: UrlPreviews


def build_media_files(settings: Settings, core: Core) -> MediaFiles:
    """Where the files of media are: on the disk, or in a bucket."""
    local = LocalMediaFiles(settings.media_directory, core.randomness, OffLoop())
    bucket = settings.media_s3
    if bucket is None:
        return local
    client = Minio(
        bucket.endpoint,
        access_key=bucket.access_key,
        secret_key=bucket.secret_key,
        region=bucket.region,
        secure=bucket.tls,
    )
    return S3MediaFiles(client, bucket.bucket, bucket.prefix, local)


def build_media(
    settings: Settings, core: Core, federation: FederationClient, rate_limits: RateLimits
) -> MediaUseCases:
    """Everything about media."""
    chosen, clock, chance = settings.media, core.clock, core.randomness
    store = MediaStore(core.database)
    files = build_media_files(settings, core)
    is_frozen = not chosen.unauthenticated_downloads
    care = MediaCare(
        store,
        files,
        clock,
        Retention(
            chosen.remote_cache_bytes,
            chosen.remote_days,
            chosen.local_days,
            removes_redacted=chosen.remove_redacted,
            cache_bytes_per_server=chosen.remote_cache_bytes_per_server,
        ),
        RedactedMedia(core.database, settings.server_name),
        settings.server_name,
    )
    remote = RemoteMedia(
        store=store,
        files=files,
        client=federation,
        http=_federation_http(settings, SystemNames(), clock, settings.federation.ip_blocklist),
        rate_limits=rate_limits,
        clock=clock,
        max_bytes=chosen.max_upload_bytes,
        cache_bytes=chosen.remote_cache_bytes,
        make_room=care.make_room,
        is_frozen=is_frozen,
    )
    reading = MediaReading(store, files, remote, clock, settings.server_name, is_frozen)
    thumbnails = Thumbnails(
        store, files, reading, ChildThumbnailer(chosen.max_thumbnail_pixels), call_later
    )
    uploads = MediaUploads(
        store=store,
        files=files,
        clock=clock,
        randomness=chance,
        server_name=settings.server_name,
        policy=MediaPolicy(chosen.max_upload_bytes, chosen.max_bytes_per_user, is_frozen),
        prepare=thumbnails.prepare,
    )
    url_previews = UrlPreviews(
        store=UrlPreviewStore(core.database),
        media=store,
        files=files,
        thumbnails=thumbnails,
        http=OutboundHttp(
            SystemNames(),
            clock,
            blocked_networks=chosen.url_preview_ip_blocklist,
            ca_file=settings.outbound.ca_file,
            user_agent=f"Architex/{__version__} (URL previews)",
        ),
        rate_limits=rate_limits,
        clock=clock,
        randomness=chance,
        server_name=settings.server_name,
        is_enabled=chosen.url_previews,
        max_picture_bytes=min(chosen.max_upload_bytes, MAX_PREVIEW_PICTURE_BYTES),
    )
    return MediaUseCases(uploads, reading, thumbnails, care, url_previews)


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
    outbound = _outbound_http(settings, clock)
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
        clock,
        chance,
        _outside_stages(settings, outbound, emails, addresses),
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
    remote_membership = RemoteMembership(
        client=federation,
        entering=Entering(importing, key_ring, EventLookup(database), clock),
        key_ring=key_ring,
        judging=judging,
        backfilling=backfilling,
        commits=commits,
        room_servers=room_servers,
        leases=LeaseStore(database),
        clock=clock,
        randomness=chance,
    )
    invite_permission = InvitePermission(AccountDataStore(database))
    third_party_invites = ThirdPartyInvites(
        commits=commits,
        inviter=remote_membership,
        client=federation,
        identity=identity_servers.client,
        room_servers=room_servers,
        acls=server_acls,
        profiles=profile_store,
        invite_permission=invite_permission,
        rate_limits=rate_limits,
        clock=clock,
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
        remote=remote_membership,
        third_party_invites=third_party_invites,
        invite_permission=invite_permission,
        server_name=settings.server_name,
        notices_sender=f"@{settings.server_notices.localpart}:{settings.server_name}",
    )

    address_invites = AddressInvites(commits, joining, identity_servers, rate_limits)

    typing = Typing(database, commits, clock, call_later)
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
            unpublish=third_party_identifiers.unbind_all,
            emails=emails.is_possible,
        ),
        address_invites=address_invites,
        emails=emails,
        cross_signing=CrossSigning(
            device_keys, device_lists, remote_keys, interactive_auth, clock
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
        key_backups=KeyBackups(KeyBackupStore(database)),
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
        login=Login(accounts, password_check, sessions, rate_limits, login_tokens),
        login_tokens=login_tokens,
        media_care=media.care,
        media_reading=media.reading,
        media_uploads=media.uploads,
        mutual_rooms=MutualRooms(members),
        notifications=Notifications(database, rendering, clock),
        openid=OpenId(OpenIdTokenStore(database), settings.server_name, clock, chance),
        profiles=Profiles(
            server_name=settings.server_name,
            profiles=profile_store,
            commits=commits,
            list_joined_rooms=members.list_joined_rooms,
            remote=FederatedProfiles(federation, clock, rate_limits),
        ),
        public_rooms=PublicRooms(
            published=PublishedRoomStore(database),
            reads=directory_reads,
            clock=clock,
            server_name=settings.server_name,
            policy=directory_policy,
            remote=remote_directory,
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
                terms=settings.terms is not None,
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
        searching=Searching(database, rendering, clock),
        sending=Sending(
            commits=commits, events=EventLookup(database), aliases=directory, invites=joining
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
            is_entering=remote_membership.is_entering,
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
        user_directory=UserDirectory(directory_reads),
        whois=Whois(accounts, devices),
    )


def _outbound_http(settings: Settings, clock: Clock) -> OutboundHttp:
    """The HTTP client for whatever is no homeserver."""
    return OutboundHttp(
        SystemNames(),
        clock,
        blocked_networks=settings.outbound.ip_blocklist,
        ca_file=settings.outbound.ca_file,
        user_agent=f"Architex/{__version__}",
    )


def build_mailer(settings: Settings, clock: Clock, randomness: Randomness) -> Mailer | None:
    """What sends mails, if the settings say how. Needs no database."""
    given = settings.email
    if given is None:
        return None
    return SmtpMailer(
        clock,
        randomness,
        host=given.smtp_host,
        port=given.smtp_port,
        tls=given.smtp_tls,
        sender=given.sender,
        user=given.smtp_user,
        password=given.smtp_password,
    )


def build_emails(settings: Settings, core: Core, rate_limits: RateLimits) -> EmailValidations:
    """What sends mails and knows whose links were followed."""
    given = settings.email
    return EmailValidations(
        EmailValidationStore(core.database),
        UserAddressStore(core.database),
        build_mailer(settings, core.clock, core.randomness),
        rate_limits,
        core.clock,
        core.randomness,
        settings.server_name,
        settings.public_base_url,
        () if given is None else given.next_link_hosts,
        settings.registration.enabled,
    )


def _outside_stages(
    settings: Settings,
    outbound: OutboundHttp,
    emails: EmailValidations,
    addresses: UserAddressStore,
) -> OutsideStages:
    """The stages of interactive authentication that others have a part in."""
    captcha: Recaptcha | None = None
    params: dict[str, Mapping[str, Any]] = {}
    if (given := settings.recaptcha) is not None:
        captcha = Recaptcha(outbound, given.siteverify_url, given.private_key)
        params[RECAPTCHA] = {"public_key": given.public_key}
    if (terms := settings.terms) is not None:
        document = {"version": terms.version, "en": {"name": terms.name, "url": terms.url}}
        params[TERMS] = {"policies": {"terms_of_service": document}}
    return OutsideStages(
        emails=emails if emails.is_possible else None,
        addresses=addresses,
        captcha=captcha,
        params=params,
    )


def _well_known(settings: Settings) -> WellKnown:
    """What /.well-known/matrix tells."""
    given = settings.well_known
    contact = {"matrix_id": given.support_matrix_id, "email_address": given.support_email}
    ways = {name: value for name, value in contact.items() if value is not None}
    return WellKnown(
        base_url=settings.public_base_url,
        delegated_server=given.delegated_server,
        support_page=given.support_page,
        contacts=[{"role": "m.role.admin", **ways}] if ways else [],
    )


def _limits(settings: Settings) -> dict[str, RateLimit]:
    """The rate limits by kind."""
    limits = settings.rate_limits
    return {
        "messages": RateLimit(limits.messages.per_second, limits.messages.burst),
        "joins": RateLimit(limits.joins.per_second, limits.joins.burst),
        "invites": RateLimit(limits.invites.per_second, limits.invites.burst),
        "room_messages": RateLimit(limits.room_messages.per_second, limits.room_messages.burst),
        "room_joins": RateLimit(limits.room_joins.per_second, limits.room_joins.burst),
        "registrations": RateLimit(limits.registrations.per_second, limits.registrations.burst),
        "logins": RateLimit(limits.logins.per_second, limits.logins.burst),
        "federation": RateLimit(limits.federation.per_second, limits.federation.burst),
        "federation_reads": RateLimit(
            limits.federation_reads.per_second, limits.federation_reads.burst
        ),
        "media": RateLimit(limits.media.per_second, limits.media.burst),
        "remote_media": RateLimit(limits.remote_media.per_second, limits.remote_media.burst),
        "remote_lookups": RateLimit(limits.remote_lookups.per_second, limits.remote_lookups.burst),
        "mails": RateLimit(limits.mails.per_second, limits.mails.burst),
        "identity_servers": RateLimit(
            limits.identity_servers.per_second, limits.identity_servers.burst
        ),
        "federation_states": RateLimit(
            limits.federation_states.per_second, limits.federation_states.burst
        ),
    }


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


def build_wsgi_app(settings: Settings) -> WsgiApp:
    """What gunicorn serves: every API, over the database of the settings."""
    core = build_core(settings, application_name="architex web")
    stopping.call_on_stop(core.notifier.stop)
    return build_app(settings, core)


def build_app(
    settings: Settings, core: Core, federation: FederationClient | None = None
) -> WsgiApp:
    """Every API, over a core.

    Args:
        federation: how other servers are asked; by default as the settings say.
    """
    federation = federation or build_federation_client(settings, core)
    use_cases = build_use_cases(settings, core, federation)
    servers = None
    if settings.federation.enabled:
        destinations = Destinations(core.database, call_later)
        client = federation

        def note_alive(server_name: ServerName) -> None:
            client.note_alive(server_name)
            destinations.note_alive(server_name)

        servers = ServerAuthenticator(settings.server_name, use_cases.key_ring, note_alive)
    routes = [
        Route(
            "/",
            WelcomePage(
                server_name=settings.server_name,
                version=__version__,
                base_url=settings.public_base_url,
            ),
        ),
        Route("/health", Health(core.event_log.position)),
        *server_routes(use_cases, _well_known(settings)),
        *under_client_versions(client_routes(use_cases)),
    ]
    if settings.federation.enabled:
        routes += federation_routes(use_cases, core.clock, __version__)
    authenticator = Authenticator(use_cases.sessions, use_cases.rate_limits, servers)
    return create_app(authenticator, routes, counted=settings.metrics.port is not None)


def build_federation_sender(
    settings: Settings, core: Core, client: FederationClient, workers: Workers | None = None
) -> FederationSender:
    """What sends to other servers what they are owed.

    Args:
        workers: who does the sending, instead of threads.
    """
    own, now_ms = settings.server_name, core.clock.now_ms
    sources: list[EduSource] = [
        ToDeviceEdus(),
        DeviceListEdus(own),
        TypingEdus(own, now_ms),
        ReceiptEdus(own),
    ]
    if settings.presence.enabled:
        sources.append(PresenceEdus(own, now_ms, presence_content))
    return FederationSender(
        core.database,
        client,
        core.clock,
        core.randomness,
        server_name=own,
        sources=sources,
        at_once=settings.federation.sends_at_once,
        workers=workers,
    )


def run_followers(settings: Settings, stop: threading.Event) -> None:
    """Run everything that follows the log or the clock, until `stop` is set.

    Several processes may: each follower works in one of them at a time.
    """
    core = build_core(settings, application_name="architex followers")
    database, clock = core.database, core.clock
    typing = Typing(database, core.commits, clock)
    guest_access = GuestAccess(GuestReads(database), core.commits)
    presence = PresenceUpdates(
        PresenceStore(database), core.commits, clock, enabled=settings.presence.enabled
    )
    chores = [
        *chores_of_time(
            Transactions(database), Expiries(database), typing.announce_expired, clock
        ),
        Chore(
            "tell others who goes on typing", 20.0, lambda: typing.announce_again(core.server_name)
        ),
        Chore("send guests away", 3.0, guest_access.send_guests_away),
        Chore("show who fell silent as offline", 10.0, presence.announce_silent),
        Chore("forget told members", 3600.0, LazyMemberStore(database).forget_old),
        *chores_of_devices(
            OneTimeKeyStore(database),
            DeviceListStore(database),
            RemoteDeviceStore(database, core.server_name),
            ToDeviceStore(database),
            clock,
        ),
        *chores_of_sending(
            Destinations(database),
            lambda: forget_delivered_events(database),
            lambda: forget_oldest_events(database),
            clock,
        ),
    ]
    federation = build_federation_client(settings, core)
    use_cases = build_use_cases(settings, core, federation)
    senders = []
    if settings.federation.enabled:
        senders.append(build_federation_sender(settings, core, federation))
    stop_metrics = _serve_metrics(settings, core)
    try:
        run_all(
            [
                *projectors(database, followed_projections(), clock),
                *senders,
                Housekeeping(chores, clock),
                Housekeeping(chores_of_receiving(use_cases.receiving, clock), clock, name="inbox"),
                Housekeeping(
                    chores_of_media(use_cases.media_care, use_cases.url_previews.forget_old),
                    clock,
                    name="media",
                ),
            ],
            leases=LeaseStore(database),
            notifier=core.notifier,
            clock=clock,
            randomness=core.randomness,
            host=f"{socket.gethostname()} {os.getpid()}",
            stop=stop,
        )
    finally:
        stop_metrics()
        database.close()


def _serve_metrics(settings: Settings, core: Core) -> Callable[[], None]:
    """Serve the metrics, if the settings say where; returns what stops that."""
    if settings.metrics.port is None:
        return lambda: None
    collector = DatabaseCollector(
        {name: about for name, (about, _) in FIGURES.items()},
        lambda: read_figures(core.database),
        lambda: read_lags(core.database),
    )
    try:
        return serve_metrics(
            settings.metrics.host, settings.metrics.port, settings.metrics_dir, collector
        )
    except OSError as error:
        # Followers of another host of the same settings, perhaps; they have work to do.
        log.error("metrics are not served: %s", error)
        return lambda: None
