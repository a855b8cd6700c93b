"""UseCases: everything that can be intended, built by bootstrap, given to the drivers."""

from __future__ import annotations

from dataclasses import dataclass

from architex.usecases.account_data import AccountData
from architex.usecases.account_moderation import AccountModeration
from architex.usecases.accounts import Accounts
from architex.usecases.address_invites import AddressInvites
from architex.usecases.cross_signing import CrossSigning
from architex.usecases.dehydrated_devices import DehydratedDevices
from architex.usecases.devices import Devices
from architex.usecases.directory import Directory
from architex.usecases.email_validation import EmailValidations
from architex.usecases.encryption_keys import EncryptionKeys
from architex.usecases.filters import Filters
from architex.usecases.finding_by_time import FindingByTime
from architex.usecases.interactive_auth import InteractiveAuth
from architex.usecases.inviting import Inviting
from architex.usecases.joining import Joining
from architex.usecases.key_backups import KeyBackups
from architex.usecases.login import Login
from architex.usecases.login_tokens import LoginTokens
from architex.usecases.media_care import MediaCare
from architex.usecases.media_reading import MediaReading
from architex.usecases.media_uploads import MediaUploads
from architex.usecases.mutual_rooms import MutualRooms
from architex.usecases.notifications import Notifications
from architex.usecases.old_sync import OldSyncing
from architex.usecases.openid import OpenId
from architex.usecases.peeking import Peeking
from architex.usecases.presence import PresenceUpdates
from architex.usecases.profiles import Profiles
from architex.usecases.public_rooms import PublicRooms
from architex.usecases.push_rules import PushRules
from architex.usecases.pushers import Pushers
from architex.usecases.rate_limits import RateLimits
from architex.usecases.receipts import Receipts
from architex.usecases.receiving import Receiving
from architex.usecases.registration import Registration
from architex.usecases.relating import Relating
from architex.usecases.remote_invites import RemoteInvites
from architex.usecases.removing import Removing
from architex.usecases.reporting import Reporting
from architex.usecases.resident import Resident
from architex.usecases.room_creation import RoomCreation
from architex.usecases.room_reading import RoomReading
from architex.usecases.room_upgrades import RoomUpgrades
from architex.usecases.searching import Searching
from architex.usecases.sending import Sending
from architex.usecases.server_keys import KeyRing
from architex.usecases.serving_history import ServingHistory
from architex.usecases.sessions import Sessions
from architex.usecases.spaces import Spaces
from architex.usecases.syncing import Syncing
from architex.usecases.third_party_identifiers import ThirdPartyIdentifiers
from architex.usecases.third_party_invites import ThirdPartyInvites
from architex.usecases.thumbnails import Thumbnails
from architex.usecases.to_device import ToDevice
from architex.usecases.turn_servers import TurnServers
from architex.usecases.typing import Typing
from architex.usecases.url_previews import UrlPreviews
from architex.usecases.user_directory import UserDirectory
from architex.usecases.whois import Whois


@dataclass(frozen=True, kw_only=True)
class UseCases:
    """One object per noun."""

    account_data: AccountData
    account_moderation: AccountModeration
    accounts: Accounts
    address_invites: AddressInvites
    cross_signing: CrossSigning
    dehydrated_devices: DehydratedDevices
    devices: Devices
    directory: Directory
    emails: EmailValidations
    encryption_keys: EncryptionKeys
    filters: Filters
    finding_by_time: FindingByTime
    interactive_auth: InteractiveAuth
    inviting: Inviting
    joining: Joining
    key_ring: KeyRing
    key_backups: KeyBackups
    login: Login
    login_tokens: LoginTokens
    media_care: MediaCare
    media_reading: MediaReading
    media_uploads: MediaUploads
    mutual_rooms: MutualRooms
    notifications: Notifications
    old_syncing: OldSyncing
    openid: OpenId
    profiles: Profiles
    public_rooms: PublicRooms
    push_rules: PushRules
    pushers: Pushers
    rate_limits: RateLimits
    registration: Registration
    relating: Relating
    removing: Removing
    remote_invites: RemoteInvites
    resident: Resident
    room_creation: RoomCreation
    room_upgrades: RoomUpgrades
    reporting: Reporting
    searching: Searching
    sending: Sending
    serving_history: ServingHistory
    spaces: Spaces
    sessions: Sessions
    url_previews: UrlPreviews
    user_directory: UserDirectory
    peeking: Peeking
    presence: PresenceUpdates
    receipts: Receipts
    receiving: Receiving
    room_reading: RoomReading
    syncing: Syncing
    thumbnails: Thumbnails
    to_device: ToDevice
    turn_servers: TurnServers
    third_party_identifiers: ThirdPartyIdentifiers
    third_party_invites: ThirdPartyInvites
    typing: Typing
    whois: Whois
