"""What the follower process runs."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable

from architex.bootstrap.core import Core, build_core, followed_projections
from architex.bootstrap.federation import build_federation_client, build_federation_sender
from architex.bootstrap.garbage import spare_the_program
from architex.bootstrap.use_cases import build_use_cases
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
from architex.projections.federation_outbox import forget_delivered_events, forget_oldest_events
from architex.projections.guest_reads import GuestReads
from architex.settings import Settings
from architex.storage.destinations import Destinations
from architex.storage.device_lists import DeviceListStore
from architex.storage.expiries import Expiries
from architex.storage.figures import FIGURES, read_figures, read_lags
from architex.storage.lazy_members import LazyMemberStore
from architex.storage.leases import LeaseStore
from architex.storage.one_time_keys import OneTimeKeyStore
from architex.storage.remote_devices import RemoteDeviceStore
from architex.storage.to_device import ToDeviceStore
from architex.storage.transactions import Transactions
from architex.usecases.catalogue import UseCases
from architex.usecases.guest_access import GuestAccess
from architex.usecases.typing import Typing

log = logging.getLogger(__name__)


def run_followers(settings: Settings, stop: threading.Event) -> None:
    """Run everything that follows the log or the clock, until `stop` is set.

    Several processes may: each follower works in one of them at a time.
    """
    core = build_core(settings, application_name="architex followers")
    clock = core.clock
    federation = build_federation_client(settings, core)
    use_cases = build_use_cases(settings, core, federation)
    senders = []
    if settings.federation.enabled:
        senders.append(build_federation_sender(settings, core, federation))
    stop_metrics = _serve_metrics(settings, core)
    spare_the_program()
    try:
        run_all(
            [
                *projectors(core.database, followed_projections(), clock),
                *senders,
                Housekeeping(_build_chores(core, use_cases), clock),
                Housekeeping(
                    chores_of_receiving(use_cases.receiving, use_cases.receipts, clock),
                    clock,
                    name="inbox",
                ),
                Housekeeping(
                    chores_of_media(use_cases.media_care, use_cases.url_previews.forget_old),
                    clock,
                    name="media",
                ),
            ],
            leases=LeaseStore(core.database),
            notifier=core.notifier,
            clock=clock,
            randomness=core.randomness,
            host=f"{socket.gethostname()} {os.getpid()}",
            stop=stop,
        )
    finally:
        stop_metrics()
        core.close()


def _build_chores(core: Core, use_cases: UseCases) -> list[Chore]:
    """What is done now and then, whoever asks."""
    database, clock = core.database, core.clock
    # By no timers: here the clock calls.
    typing = Typing(database, core.commits, clock)
    guest_access = GuestAccess(GuestReads(database), core.commits)
    return [
        *chores_of_time(
            Transactions(database), Expiries(database), typing.announce_expired, clock
        ),
        Chore(
            "tell others who goes on typing", 20.0, lambda: typing.announce_again(core.server_name)
        ),
        Chore("send guests away", 3.0, guest_access.send_guests_away),
        Chore("show who is idle or offline by now", 10.0, use_cases.presence.announce_quiet),
        Chore("forget told members", 3600.0, LazyMemberStore(database).forget_old),
        *chores_of_devices(
            OneTimeKeyStore(database),
            DeviceListStore(database),
            RemoteDeviceStore(database, core.server_name),
            ToDeviceStore(database),
            clock,
            core.server_name,
        ),
        *chores_of_sending(
            Destinations(database),
            lambda: forget_delivered_events(database),
            lambda: forget_oldest_events(database),
            clock,
        ),
    ]


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
