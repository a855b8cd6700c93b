"""Membership across servers: templates and signed events of users of other servers.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import falcon

from architex.api.federation.authentication import require_server, signed_content
from architex.api.requests import bool_param
from architex.domain.errors import BadJson, MissingParam
from architex.usecases.remote_invites import RemoteInvites
from architex.usecases.resident import Membership, Resident

MAX_EVENT_BODY_BYTES: Final = 512 * 1024
"""Of a request that carries one event, which has at most 65,536 bytes as canonical JSON."""

MAX_INVITE_BODY_BYTES: Final = 2 * 1024 * 1024
"""Of an invite, which also tells some state of the room."""


class TemplateResource:
    """GET /make_join, /make_knock and /make_leave/{room_id}/{user_id}"""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident

    def on_get_join(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, user_id: str
    ) -> None:
        """An event by which the user would join.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid
        """
        self._answer(req, resp, room_id, user_id, "join")

    def on_get_knock(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, user_id: str
    ) -> None:
        """An event by which the user would knock.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_knockroomiduserid
        """
        self._answer(req, resp, room_id, user_id, "knock")

    def on_get_leave(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, user_id: str
    ) -> None:
        """An event by which the user would leave; asks for no room versions.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_leaveroomiduserid
        """
        origin = require_server(req)
        resp.media = self._resident.make_template(origin, room_id, user_id, "leave")

    def _answer(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        room_id: str,
        user_id: str,
        membership: Membership,
    ) -> None:
        origin = require_server(req)
        versions = req.get_param_as_list("ver")
        if not versions:
            if membership == "knock":
                raise MissingParam("Missing: ver.")
            versions = ["1"]
        resp.media = self._resident.make_template(origin, room_id, user_id, membership, versions)


class SendJoinResource:
    """PUT /send_join/{room_id}/{event_id}"""

    def __init__(self, resident: Resident, *, is_wrapped: bool = False) -> None:
        """Hold the use case.

        Args:
            is_wrapped: whether the answer is an array of 200 and the object: version 1.
        """
        self._resident = resident
        self._is_wrapped = is_wrapped

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str
    ) -> None:
        """A join, signed; answered with the state of the room, as it is read from the database.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid
        """
        origin = require_server(req, max_bytes=MAX_EVENT_BODY_BYTES)
        pieces = self._resident.receive_join(
            origin,
            room_id,
            event_id,
            signed_content(req),
            omit_members=bool_param(req, "omit_members") and not self._is_wrapped,
        )
        resp.content_type = falcon.MEDIA_JSON
        resp.stream = _wrapped(pieces) if self._is_wrapped else pieces


class SendLeaveResource:
    """PUT /send_leave/{room_id}/{event_id}"""

    def __init__(self, resident: Resident, *, is_wrapped: bool = False) -> None:
        """Hold the use case.

        Args:
            is_wrapped: whether the answer is an array of 200 and the object: version 1.
        """
        self._resident = resident
        self._is_wrapped = is_wrapped

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str
    ) -> None:
        """A leave, signed.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_leaveroomideventid
        """
        origin = require_server(req, max_bytes=MAX_EVENT_BODY_BYTES)
        self._resident.receive_leave(origin, room_id, event_id, signed_content(req))
        empty: dict[str, Any] = {}
        resp.media = [200, empty] if self._is_wrapped else empty


class SendKnockResource:
    """PUT /send_knock/{room_id}/{event_id}"""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str
    ) -> None:
        """A knock, signed; answered with what the user may know of the room.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_knockroomideventid
        """
        origin = require_server(req, max_bytes=MAX_EVENT_BODY_BYTES)
        state = self._resident.receive_knock(origin, room_id, event_id, signed_content(req))
        resp.media = {"knock_room_state": state}


class InviteResource:
    """PUT /v2/invite/{room_id}/{event_id}"""

    def __init__(self, invites: RemoteInvites) -> None:
        self._invites = invites

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str
    ) -> None:
        """An invite of a user of ours, answered with our signature on it.

        Raises:
            MissingParam, BadJson: the request is not of its form.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid
        """
        origin = require_server(req, max_bytes=MAX_INVITE_BODY_BYTES)
        content = signed_content(req)
        if "event" not in content or "room_version" not in content:
            raise MissingParam("An invite needs an event and a room_version.")
        event, version = content["event"], content["room_version"]
        if not isinstance(event, dict) or not isinstance(version, str):
            raise BadJson("The event must be an object, the room_version a string.")
        told = content.get("invite_room_state", [])
        signed = self._invites.receive_invite(origin, room_id, event_id, version, event, told)
        resp.media = {"event": signed}


class OldInviteResource:
    """PUT /v1/invite/{room_id}/{event_id}"""

    def __init__(self, invites: RemoteInvites) -> None:
        self._invites = invites

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, event_id: str
    ) -> None:
        """An invite of a user of ours into a room of version 1 or 2.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1inviteroomideventid
        """
        origin = require_server(req, max_bytes=MAX_INVITE_BODY_BYTES)
        event = signed_content(req)
        signed = self._invites.receive_old_invite(origin, room_id, event_id, event)
        resp.media = [200, {"event": signed}]


def _wrapped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield b"[200,"
    yield from pieces
    yield b"]"
