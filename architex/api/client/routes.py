"""The table of the client API: path template → resource, one row per endpoint."""

from __future__ import annotations

from architex.api.client import directory as directories
from architex.api.client import (
    membership,
    old_sync,
    peeking,
    presence,
    receipts,
    relations,
    reporting,
    room_creation,
    room_reading,
    room_state,
    room_upgrades,
    sending,
    spaces,
    sync,
    user_directory,
)
from architex.api.client.account_routes import account_routes
from architex.api.client.encryption_routes import encryption_routes
from architex.api.client.media_routes import media_routes
from architex.api.routing import Route
from architex.usecases.catalogue import UseCases


def client_routes(use_cases: UseCases) -> list[Route]:
    """Rows below `/_matrix/client/{version}`, each served under every version prefix.

    Spec: https://spec.matrix.org/v1.19/client-server-api/
    """
    joining, directory = use_cases.joining, use_cases.directory
    reading, receipt, typing = use_cases.room_reading, use_cases.receipts, use_cases.typing
    children = relations.ChildrenResource(use_cases.relating)
    state = room_state.StateEventResource(use_cases.sending, reading)
    return [
        *account_routes(use_cases),
        *encryption_routes(use_cases),
        *media_routes(use_cases),
        Route("/directory/room/{room_alias}", directories.AliasResource(directory)),
        Route("/rooms/{room_id}/aliases", directories.RoomAliasesResource(directory)),
        Route(
            "/directory/list/room/{room_id}",
            directories.RoomVisibilityResource(use_cases.public_rooms),
        ),
        Route(
            "/directory/list/appservice/{network_id}/{room_id}",
            directories.AppserviceRoomVisibilityResource(use_cases.public_rooms),
        ),
        Route("/publicRooms", directories.PublicRoomsResource(use_cases.public_rooms)),
        Route(
            "/user_directory/search",
            user_directory.UserDirectorySearchResource(use_cases.user_directory),
        ),
        Route(
            "/createRoom",
            room_creation.CreateRoomResource(use_cases.room_creation, use_cases.address_invites),
        ),
        Route("/rooms/{room_id}/upgrade", room_upgrades.UpgradeResource(use_cases.room_upgrades)),
        Route("/join/{room_id_or_alias}", membership.JoinByIdOrAliasResource(joining, directory)),
        Route("/knock/{room_id_or_alias}", membership.KnockResource(joining, directory)),
        Route("/joined_rooms", membership.JoinedRoomsResource(joining)),
        Route("/rooms/{room_id}/join", membership.JoinResource(joining)),
        Route(
            "/rooms/{room_id}/invite",
            membership.InviteResource(use_cases.inviting, use_cases.address_invites),
        ),
        Route("/rooms/{room_id}/leave", membership.LeaveResource(joining)),
        Route("/rooms/{room_id}/forget", membership.ForgetResource(joining)),
        Route("/rooms/{room_id}/kick", membership.KickResource(use_cases.removing)),
        Route("/rooms/{room_id}/ban", membership.BanResource(use_cases.removing)),
        Route("/rooms/{room_id}/unban", membership.UnbanResource(use_cases.removing)),
        Route(
            "/rooms/{room_id}/send/{event_type}/{txn_id}",
            sending.SendMessageResource(use_cases.sending),
        ),
        Route(
            "/rooms/{room_id}/redact/{event_id}/{txn_id}",
            sending.RedactResource(use_cases.sending),
        ),
        Route("/rooms/{room_id}/report", reporting.ReportRoomResource(use_cases.reporting)),
        Route(
            "/rooms/{room_id}/report/{event_id}",
            reporting.ReportEventResource(use_cases.reporting),
        ),
        Route("/rooms/{room_id}/hierarchy", spaces.HierarchyResource(use_cases.spaces)),
        Route(
            "/room_summary/{room_id_or_alias}",
            spaces.RoomSummaryResource(use_cases.spaces, directory),
        ),
        Route("/rooms/{room_id}/state", room_state.StateResource(reading)),
        Route("/rooms/{room_id}/state/{event_type}", state),
        Route("/rooms/{room_id}/state/{event_type}/{state_key}", state),
        Route("/rooms/{room_id}/messages", room_reading.MessagesResource(reading)),
        Route("/rooms/{room_id}/relations/{event_id}", children),
        Route("/rooms/{room_id}/relations/{event_id}/{rel_type}", children),
        Route("/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}", children),
        Route("/rooms/{room_id}/threads", relations.ThreadsResource(use_cases.relating)),
        Route("/rooms/{room_id}/event/{event_id}", room_reading.EventResource(reading)),
        Route(
            "/rooms/{room_id}/timestamp_to_event",
            room_reading.TimestampResource(use_cases.finding_by_time),
        ),
        Route("/rooms/{room_id}/context/{event_id}", room_reading.ContextResource(reading)),
        Route("/rooms/{room_id}/members", room_reading.MembersResource(reading)),
        Route("/rooms/{room_id}/joined_members", room_reading.JoinedMembersResource(reading)),
        Route(
            "/rooms/{room_id}/receipt/{receipt_type}/{event_id}", receipts.ReceiptResource(receipt)
        ),
        Route("/rooms/{room_id}/read_markers", receipts.ReadMarkersResource(receipt)),
        Route("/rooms/{room_id}/typing/{user_id}", receipts.TypingResource(typing)),
        Route("/presence/{user_id}/status", presence.PresenceResource(use_cases.presence)),
        Route("/rooms/{room_id}/initialSync", peeking.RoomInitialSyncResource(use_cases.peeking)),
        Route("/events", old_sync.EventsResource(use_cases.peeking, use_cases.old_syncing)),
        Route("/events/{event_id}", old_sync.OneEventResource(use_cases.old_syncing)),
        Route("/initialSync", old_sync.InitialSyncResource(use_cases.old_syncing)),
        Route("/sync", sync.SyncResource(use_cases.syncing, use_cases.filters)),
    ]
