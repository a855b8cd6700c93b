"""The table of the server-server API: path template → resource, one row per endpoint."""

from __future__ import annotations

from architex.api.federation import history, media, queries, user_keys
from architex.api.federation.keys import KeyQueryResource, ServerKeysResource
from architex.api.federation.membership import (
    InviteResource,
    OldInviteResource,
    SendJoinResource,
    SendKnockResource,
    SendLeaveResource,
    TemplateResource,
)
from architex.api.federation.spaces import HierarchyResource
from architex.api.federation.third_party_invites import ExchangeResource, OnBindResource
from architex.api.federation.transactions import TransactionResource
from architex.api.federation.version import VersionResource
from architex.api.routing import Route
from architex.gateways.clock import Clock
from architex.usecases.catalogue import UseCases


def federation_routes(use_cases: UseCases, clock: Clock, version: str) -> list[Route]:
    """Rows with their full paths.

    Args:
        version: of this program.

    Spec: https://spec.matrix.org/v1.19/server-server-api/
    """
    own_keys = ServerKeysResource(use_cases.key_ring)
    key_queries = KeyQueryResource(use_cases.key_ring, clock)
    served = use_cases.serving_history
    resident = use_cases.resident
    templates = TemplateResource(resident)
    limits, make_boundary = use_cases.rate_limits, use_cases.media_uploads.make_boundary
    return [
        Route("/_matrix/key/v2/server", own_keys),
        Route("/_matrix/key/v2/server/{key_id}", own_keys),
        Route("/_matrix/key/v2/query", key_queries),
        Route("/_matrix/key/v2/query/{server_name}", key_queries, "one"),
        Route("/_matrix/key/v2/query/{server_name}/{key_id}", key_queries, "one"),
        Route("/_matrix/federation/v1/version", VersionResource(version)),
        Route("/_matrix/federation/v1/send/{txn_id}", TransactionResource(use_cases.receiving)),
        Route(
            "/_matrix/federation/v1/query/profile",
            queries.ProfileQueryResource(use_cases.profiles),
        ),
        Route(
            "/_matrix/federation/v1/query/directory",
            queries.DirectoryQueryResource(use_cases.directory),
        ),
        Route(
            "/_matrix/federation/v1/publicRooms",
            queries.PublicRoomsResource(use_cases.public_rooms),
        ),
        Route(
            "/_matrix/federation/v1/user/devices/{user_id}",
            user_keys.UserDevicesResource(use_cases.encryption_keys),
        ),
        Route(
            "/_matrix/federation/v1/user/keys/query",
            user_keys.UserKeysQueryResource(use_cases.encryption_keys),
        ),
        Route(
            "/_matrix/federation/v1/user/keys/claim",
            user_keys.UserKeysClaimResource(use_cases.encryption_keys),
        ),
        Route("/_matrix/federation/v1/hierarchy/{room_id}", HierarchyResource(use_cases.spaces)),
        Route(
            "/_matrix/federation/v1/media/download/{media_id}",
            media.DownloadResource(use_cases.media_reading, limits, make_boundary),
        ),
        Route(
            "/_matrix/federation/v1/media/thumbnail/{media_id}",
            media.ThumbnailResource(use_cases.thumbnails, limits, make_boundary),
        ),
        Route("/_matrix/federation/v1/event/{event_id}", history.EventResource(served)),
        Route("/_matrix/federation/v1/state/{room_id}", history.StateResource(served)),
        Route("/_matrix/federation/v1/state_ids/{room_id}", history.StateResource(served), "ids"),
        Route(
            "/_matrix/federation/v1/event_auth/{room_id}/{event_id}",
            history.EventAuthResource(served),
        ),
        Route(
            "/_matrix/federation/v1/timestamp_to_event/{room_id}",
            history.TimestampResource(served),
        ),
        Route("/_matrix/federation/v1/backfill/{room_id}", history.BackfillResource(served)),
        Route(
            "/_matrix/federation/v1/get_missing_events/{room_id}",
            history.MissingEventsResource(served),
        ),
        Route(
            "/_matrix/federation/v1/invite/{room_id}/{event_id}",
            OldInviteResource(use_cases.remote_invites),
        ),
        Route(
            "/_matrix/federation/v2/invite/{room_id}/{event_id}",
            InviteResource(use_cases.remote_invites),
        ),
        Route(
            "/_matrix/federation/v1/exchange_third_party_invite/{room_id}",
            ExchangeResource(use_cases.third_party_invites),
        ),
        Route("/_matrix/federation/v1/3pid/onbind", OnBindResource(use_cases.third_party_invites)),
        Route("/_matrix/federation/v1/make_join/{room_id}/{user_id}", templates, "join"),
        Route("/_matrix/federation/v1/make_knock/{room_id}/{user_id}", templates, "knock"),
        Route("/_matrix/federation/v1/make_leave/{room_id}/{user_id}", templates, "leave"),
        Route(
            "/_matrix/federation/v1/send_join/{room_id}/{event_id}",
            SendJoinResource(resident, is_wrapped=True),
        ),
        Route("/_matrix/federation/v2/send_join/{room_id}/{event_id}", SendJoinResource(resident)),
        Route(
            "/_matrix/federation/v1/send_leave/{room_id}/{event_id}",
            SendLeaveResource(resident, is_wrapped=True),
        ),
        Route(
            "/_matrix/federation/v2/send_leave/{room_id}/{event_id}", SendLeaveResource(resident)
        ),
        Route(
            "/_matrix/federation/v1/send_knock/{room_id}/{event_id}", SendKnockResource(resident)
        ),
    ]
