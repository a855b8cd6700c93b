"""The rows of the client API's table that are about end-to-end encryption."""

from __future__ import annotations

from architex.api.client import dehydrated_devices, key_backup, to_device
from architex.api.client import encryption_keys as keys
from architex.api.routing import Route
from architex.usecases.catalogue import UseCases


def encryption_routes(use_cases: UseCases) -> list[Route]:
    """Rows below `/_matrix/client/{version}`.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#end-to-end-encryption
    """
    device_keys, cross_signing = use_cases.encryption_keys, use_cases.cross_signing
    backups = use_cases.key_backups
    upload = keys.UploadKeysResource(device_keys)
    return [
        Route("/keys/upload", upload),
        Route("/keys/upload/{device_id}", upload),
        Route("/keys/query", keys.QueryKeysResource(device_keys)),
        Route("/keys/claim", keys.ClaimKeysResource(device_keys)),
        Route("/keys/changes", keys.KeyChangesResource(device_keys)),
        Route("/keys/device_signing/upload", keys.UploadCrossSigningKeysResource(cross_signing)),
        Route("/keys/signatures/upload", keys.UploadSignaturesResource(cross_signing)),
        Route(
            "/sendToDevice/{event_type}/{txn_id}",
            to_device.SendToDeviceResource(use_cases.to_device),
        ),
        Route("/room_keys/version", key_backup.BackupVersionsResource(backups)),
        Route("/room_keys/version/{version}", key_backup.BackupVersionResource(backups)),
        Route("/room_keys/keys", key_backup.BackedUpKeysResource(backups)),
        Route("/room_keys/keys/{room_id}", key_backup.BackedUpRoomKeysResource(backups)),
        Route(
            "/room_keys/keys/{room_id}/{session_id}",
            key_backup.BackedUpSessionKeyResource(backups),
        ),
    ]


def unstable_encryption_routes(use_cases: UseCases) -> list[Route]:
    """Rows about what is not in the specification yet, each below its own prefix.

    Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3814
    """
    prefix = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
    devices = use_cases.dehydrated_devices
    return [
        Route(prefix, dehydrated_devices.DehydratedDeviceResource(devices)),
        Route(
            f"{prefix}/{{device_id}}/events",
            dehydrated_devices.DehydratedDeviceEventsResource(devices),
        ),
    ]
