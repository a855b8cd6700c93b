"""Everything that can be intended, over a core: subject by subject."""

from __future__ import annotations

from architex.bootstrap.common import Common, build_common
from architex.bootstrap.core import Core
from architex.bootstrap.directories import build_directories
from architex.bootstrap.encryption import build_encryption
from architex.bootstrap.federation import build_federation_client
from architex.bootstrap.media import build_media
from architex.bootstrap.memberships import MembershipUseCases, build_memberships
from architex.bootstrap.reading import build_reading
from architex.bootstrap.signing_in import build_accounts, build_signing_in
from architex.gateways.federation_client import FederationClient
from architex.projections.event_lookup import EventLookup
from architex.projections.notice_reads import NoticeReads
from architex.settings import Settings
from architex.storage.account_data import AccountDataStore
from architex.storage.accounts import AccountStore
from architex.storage.devices import DeviceStore
from architex.storage.early_receipts import EarlyReceipts
from architex.storage.openid_tokens import OpenIdTokenStore
from architex.storage.profiles import ProfileStore
from architex.storage.push_rules import PushRuleStore
from architex.storage.pushers import PusherStore
from architex.storage.received_transactions import ReceivedTransactions
from architex.storage.reports import ReportStore
from architex.storage.waiting_pdus import WaitingPdus
from architex.usecases.account_data import AccountData
from architex.usecases.account_moderation import AccountModeration
from architex.usecases.catalogue import UseCases
from architex.usecases.directory import Directory
from architex.usecases.openid import OpenId
from architex.usecases.policy_servers import PolicyServers
from architex.usecases.push_rules import PushRules
from architex.usecases.pushers import Pushers
from architex.usecases.receipts import Receipts
from architex.usecases.receiving import Receiving
from architex.usecases.receiving_devices import DeviceEdus
from architex.usecases.receiving_edus import ReceivingEdus, RoomEdus
from architex.usecases.removing import Removing
from architex.usecases.reporting import Reporting
from architex.usecases.room_creation import RoomCreation
from architex.usecases.room_upgrades import RoomUpgrades
from architex.usecases.sending import Sending
from architex.usecases.server_notices import ServerNotices
from architex.usecases.timed_cache import TimedCache
from architex.usecases.turn_servers import TurnServers
from architex.usecases.typing import Typing
from architex.usecases.whois import Whois


def build_use_cases(
    settings: Settings, core: Core, federation: FederationClient | None = None
) -> UseCases:
    """Everything that can be intended, over a core.

    Args:
        federation: how other servers are asked; by default as the settings say.
    """
    federation = federation or build_federation_client(settings, core)
    database, commits, clock = core.database, core.commits, core.clock
    commits.policy_servers = PolicyServers(federation, clock, TimedCache(clock, max_entries=1000))
    common = build_common(settings, core, federation)

    signing_in = build_signing_in(common)
    encryption = build_encryption(common, signing_in.interactive_auth)
    media = build_media(settings, core, federation, common.rate_limits)
    directories = build_directories(common)
    memberships = build_memberships(common, directories, signing_in.identity_servers)
    reading = build_reading(common, memberships.doors)
    push_rules = PushRules(PushRuleStore(database), commits)
    typing = Typing(database, commits, clock, core.call_later)
    receipts = Receipts(
        database, common.rendering.event_reads, commits, EarlyReceipts(database), clock
    )
    room_edus = RoomEdus(typing, receipts, common.presence, core.event_log, common.acls)
    accounts = AccountStore(database)

    return UseCases(
        # Who one is
        accounts=build_accounts(common, signing_in, memberships.joining),
        account_data=AccountData(AccountDataStore(database), commits, push_rules),
        account_moderation=AccountModeration(accounts, settings.server_name),
        emails=signing_in.emails,
        interactive_auth=signing_in.interactive_auth,
        login=signing_in.login,
        login_tokens=signing_in.login_tokens,
        openid=OpenId(OpenIdTokenStore(database), settings.server_name, clock, core.randomness),
        registration=signing_in.registration,
        sessions=signing_in.sessions,
        third_party_identifiers=signing_in.third_party_identifiers,
        whois=Whois(accounts, DeviceStore(database)),
        # Devices and their keys
        cross_signing=encryption.cross_signing,
        dehydrated_devices=encryption.dehydrated_devices,
        devices=encryption.devices,
        encryption_keys=encryption.encryption_keys,
        key_backups=encryption.key_backups,
        to_device=encryption.to_device,
        # Files
        media_care=media.care,
        media_reading=media.reading,
        media_uploads=media.uploads,
        thumbnails=media.thumbnails,
        url_previews=media.url_previews,
        # Finding rooms and people
        directory=directories.directory,
        mutual_rooms=directories.mutual_rooms,
        profiles=directories.profiles,
        public_rooms=directories.public_rooms,
        searching=directories.searching,
        spaces=directories.spaces,
        user_directory=directories.user_directory,
        # Coming and going
        address_invites=memberships.address_invites,
        inviting=memberships.inviting,
        joining=memberships.joining,
        remote_invites=memberships.remote_invites,
        removing=Removing(commits),
        resident=memberships.resident,
        third_party_invites=memberships.third_party_invites,
        # Writing
        presence=common.presence,
        push_rules=push_rules,
        pushers=Pushers(PusherStore(database), clock),
        receipts=receipts,
        room_creation=_build_room_creation(common, memberships, directories.directory),
        room_upgrades=_build_room_upgrades(common, memberships, directories.directory),
        sending=Sending(
            commits=commits,
            events=EventLookup(database),
            aliases=directories.directory,
            joining=memberships.joining,
            inviting=memberships.inviting,
        ),
        typing=typing,
        # Reading
        filters=reading.filters,
        finding_by_time=reading.finding_by_time,
        notifications=reading.notifications,
        old_syncing=reading.old_syncing,
        peeking=reading.peeking,
        relating=reading.relating,
        room_reading=reading.room_reading,
        syncing=reading.syncing,
        # Other servers
        key_ring=common.key_ring,
        receiving=_build_receiving(common, memberships, room_edus, encryption.device_edus),
        serving_history=reading.serving_history,
        # Whatever else
        rate_limits=common.rate_limits,
        reporting=Reporting(
            reports=ReportStore(database),
            accounts=accounts,
            event_log=core.event_log,
            events=EventLookup(database),
            members=common.members,
            rate_limits=common.rate_limits,
            server_name=settings.server_name,
            clock=clock,
        ),
        turn_servers=TurnServers(
            clock,
            settings.turn.uris,
            settings.turn.static_auth_secret,
            settings.turn.lifetime_seconds,
            settings.turn.guests,
        ),
    )


def _build_room_creation(
    common: Common, memberships: MembershipUseCases, directory: Directory
) -> RoomCreation:
    return RoomCreation(
        commits=common.core.commits,
        inviting=memberships.inviting,
        address_invites=memberships.address_invites,
        directory=directory,
        clock=common.core.clock,
        randomness=common.core.randomness,
        server_name=common.settings.server_name,
        default_version=common.settings.rooms.default_version,
    )


def _build_room_upgrades(
    common: Common, memberships: MembershipUseCases, directory: Directory
) -> RoomUpgrades:
    return RoomUpgrades(
        commits=common.core.commits,
        event_log=common.core.event_log,
        reads=memberships.upgrade_reads,
        profiles=ProfileStore(common.core.database),
        directory=directory,
        succession=memberships.succession,
        clock=common.core.clock,
        randomness=common.core.randomness,
        server_name=common.settings.server_name,
    )


def _build_receiving(
    common: Common,
    memberships: MembershipUseCases,
    room_edus: RoomEdus,
    device_edus: DeviceEdus,
) -> Receiving:
    """What other servers send to us, all of it."""
    database = common.core.database
    return Receiving(
        event_log=common.core.event_log,
        acls=common.acls,
        backfilling=memberships.backfilling,
        edus=ReceivingEdus({**room_edus.handlers(), **device_edus.handlers()}),
        transactions=ReceivedTransactions(database),
        waiting=WaitingPdus(database),
        rate_limits=common.rate_limits,
        clock=common.core.clock,
        server_name=common.settings.server_name,
        take_elsewhere=memberships.remote_invites.take_back,
        is_entering=memberships.remote_joining.is_entering,
    )


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
