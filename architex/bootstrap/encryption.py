"""Devices and their keys."""

from __future__ import annotations

from dataclasses import dataclass

from architex.bootstrap.common import Common
from architex.bootstrap.federation import build_device_lists, build_remote_keys
from architex.projections.device_list_reads import SharedRooms
from architex.storage.dehydrated_devices import DehydratedDeviceStore
from architex.storage.device_keys import DeviceKeyStore
from architex.storage.devices import DeviceStore
from architex.storage.key_backups import KeyBackupStore
from architex.storage.one_time_keys import OneTimeKeyStore
from architex.storage.remote_devices import RemoteDeviceStore
from architex.usecases.cross_signing import CrossSigning
from architex.usecases.dehydrated_devices import DehydratedDevices
from architex.usecases.devices import Devices
from architex.usecases.encryption_keys import EncryptionKeys
from architex.usecases.interactive_auth import InteractiveAuth
from architex.usecases.key_backups import KeyBackups
from architex.usecases.receiving_devices import DeviceEdus
from architex.usecases.to_device import ToDevice


@dataclass(frozen=True)
class EncryptionUseCases:
    """What is done with devices and their keys."""

    devices: Devices
    dehydrated_devices: DehydratedDevices
    encryption_keys: EncryptionKeys
    cross_signing: CrossSigning
    key_backups: KeyBackups
    to_device: ToDevice
    device_edus: DeviceEdus


def build_encryption(common: Common, interactive_auth: InteractiveAuth) -> EncryptionUseCases:
    """What is done with devices and their keys."""
    settings, core = common.settings, common.core
    database, commits, clock = core.database, core.commits, core.clock
    devices, device_keys = DeviceStore(database), DeviceKeyStore(database)
    device_lists = build_device_lists(core)
    remote_keys = build_remote_keys(settings, core, common.federation)
    to_device = ToDevice(commits, clock, core.randomness, settings.server_name)
    return EncryptionUseCases(
        devices=Devices(devices, device_lists, interactive_auth),
        dehydrated_devices=DehydratedDevices(
            database, DehydratedDeviceStore(database), devices, device_keys, device_lists, clock
        ),
        encryption_keys=EncryptionKeys(
            database=database,
            keys=device_keys,
            one_time_keys=OneTimeKeyStore(database),
            device_lists=device_lists,
            remote=remote_keys,
            clock=clock,
            server_name=settings.server_name,
        ),
        cross_signing=CrossSigning(
            device_keys, device_lists, remote_keys, interactive_auth, clock
        ),
        key_backups=KeyBackups(
            KeyBackupStore(database),
            max_bytes=settings.encryption.max_backup_bytes_per_user,
            info_uri=settings.public_base_url,
        ),
        to_device=to_device,
        device_edus=DeviceEdus(
            to_device=to_device,
            remote=remote_keys,
            lists=RemoteDeviceStore(database, settings.server_name),
            shared_rooms=SharedRooms(database),
            commits=commits,
            server_name=settings.server_name,
        ),
    )
