"""What asks other servers, and what sends to them."""

from __future__ import annotations

from collections.abc import Sequence

from architex import __version__
from architex.bootstrap.core import Core
from architex.domain.identifiers import ServerName
from architex.followers.federation_sender import FederationSender
from architex.followers.workers import Workers
from architex.gateways.clock import Clock, SystemClock, SystemRandomness
from architex.gateways.federation_client import (
    FederationClient,
    NoFederation,
    SignedFederationClient,
)
from architex.gateways.http import Blocklist, OutboundHttp
from architex.gateways.name_lookup import SystemNames
from architex.gateways.server_discovery import ServerDiscovery
from architex.projections.device_list_reads import SharedRooms
from architex.projections.outgoing_device_edus import DeviceListEdus, ToDeviceEdus
from architex.projections.outgoing_edus import EduSource, PresenceEdus, ReceiptEdus, TypingEdus
from architex.settings import PRIVATE_NETWORKS, Settings
from architex.storage.device_keys import DeviceKeyStore
from architex.storage.device_lists import DeviceListStore
from architex.storage.key_files import load_signing_key
from architex.storage.remote_devices import RemoteDeviceStore
from architex.storage.server_keys import ServerKeyStore
from architex.usecases.device_lists import DeviceLists
from architex.usecases.federation_check import FederationCheck
from architex.usecases.presence import presence_content
from architex.usecases.remote_keys import RemoteKeys
from architex.usecases.server_keys import KeyRing, OldKey


def build_federation_client(settings: Settings, core: Core) -> FederationClient:
    """How this process asks other servers."""
    if not settings.federation.enabled:
        return NoFederation()
    names = SystemNames()
    http = build_federation_http(settings, names, core.clock, settings.federation.ip_blocklist)
    discovery = ServerDiscovery(http, names, core.clock, core.randomness)
    return SignedFederationClient(
        http, discovery, core.server_name, core.signing_key, core.clock, core.randomness
    )


def build_federation_http(
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
    http = build_federation_http(settings, names, clock, blocked)
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
        core.call_later,
    )


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
