"""The table of the client API: path template → resource, one row per endpoint."""

from __future__ import annotations

from architex.api.client import membership, room_creation, sending
from architex.api.client.account_routes import account_routes
from architex.api.routing import Route
from architex.usecases.catalogue import UseCases


def client_routes(use_cases: UseCases) -> list[Route]:
    """Rows below `/_matrix/client/{version}`, each served under every version prefix.

    Spec: https://spec.matrix.org/v1.19/client-server-api/
    """
    joining, directory = use_cases.joining, use_cases.directory
    state = sending.StateEventResource(use_cases.sending)
    return [
        *account_routes(use_cases),
        Route("/createRoom", room_creation.CreateRoomResource(use_cases.room_creation)),
        Route("/join/{room_id_or_alias}", membership.JoinByIdOrAliasResource(joining, directory)),
        Route("/knock/{room_id_or_alias}", membership.KnockResource(joining, directory)),
        Route("/joined_rooms", membership.JoinedRoomsResource(joining)),
        Route("/rooms/{room_id}/join", membership.JoinResource(joining)),
        Route("/rooms/{room_id}/invite", membership.InviteResource(joining)),
        Route("/rooms/{room_id}/leave", membership.LeaveResource(joining)),
        Route("/rooms/{room_id}/forget", membership.ForgetResource(joining)),
        Route("/rooms/{room_id}/kick", membership.KickResource(joining)),
        Route("/rooms/{room_id}/ban", membership.BanResource(joining)),
        Route("/rooms/{room_id}/unban", membership.UnbanResource(joining)),
        Route(
            "/rooms/{room_id}/send/{event_type}/{txn_id}",
            sending.SendMessageResource(use_cases.sending),
        ),
        Route(
            "/rooms/{room_id}/redact/{event_id}/{txn_id}",
            sending.RedactResource(use_cases.sending),
        ),
        Route("/rooms/{room_id}/state/{event_type}", state),
        Route("/rooms/{room_id}/state/{event_type}/{state_key}", state),
    ]
