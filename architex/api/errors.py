"""MatrixError class → HTTP status and JSON body: the only place where errors become HTTP."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final

import falcon

from architex.domain import errors
from architex.domain.errors import MatrixError

log = logging.getLogger(__name__)

STATUS_OF: Final[Mapping[type[MatrixError], int]] = {
    errors.Forbidden: 403,
    errors.MalformedEvent: 400,
    errors.NotFound: 404,
    errors.Unrecognized: 404,
    errors.MethodNotAllowed: 405,
    errors.NotJson: 400,
    errors.BadJson: 400,
    errors.InvalidParam: 400,
    errors.InvalidRelation: 400,
    errors.DuplicateAnnotation: 400,
    errors.MissingParam: 400,
    errors.TooLarge: 413,
    errors.MissingToken: 401,
    errors.UnknownToken: 401,
    errors.Unauthorized: 401,
    errors.LimitExceeded: 429,
    errors.UserLimitExceeded: 403,
    errors.UserInUse: 400,
    errors.InvalidUsername: 400,
    errors.ExclusiveNamespace: 400,
    errors.WeakPassword: 400,
    errors.UserDeactivated: 403,
    errors.UserLocked: 401,
    errors.UserSuspended: 403,
    errors.ServerManagedAccountData: 405,
    errors.ThirdPartyInUse: 400,
    errors.ThirdPartyAuthFailed: 403,
    errors.ThirdPartyMediumNotSupported: 400,
    errors.ServerNotTrusted: 400,
    errors.GuestAccessForbidden: 403,
    errors.RoomInUse: 400,
    errors.AliasExists: 409,
    errors.InvalidRoomState: 400,
    errors.UnsupportedRoomVersion: 400,
    errors.IncompatibleRoomVersion: 400,
    errors.UnableToAuthoriseJoin: 400,
    errors.UnableToGrantJoin: 400,
    errors.RemoteFailed: 502,
    errors.BadAlias: 400,
    errors.BadState: 403,
    errors.CannotLeaveServerNoticeRoom: 403,
    errors.UnknownPosition: 400,
    errors.NotImplementedHere: 501,
    errors.NotYetUploaded: 504,
    errors.CannotOverwriteMedia: 409,
    errors.CannotThumbnail: 400,
    errors.TooLargeElsewhere: 502,
    errors.DatabaseUnavailable: 503,
    MatrixError: 400,
}


def status_of(error: MatrixError) -> int:
    """The HTTP status of an error: its class's, or its nearest base's."""
    return next(STATUS_OF[base] for base in type(error).__mro__ if base in STATUS_OF)


def answer_matrix_error(
    req: falcon.Request, resp: falcon.Response, error: MatrixError, params: object
) -> None:
    """The spec's standard error response.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#standard-error-response
    """
    resp.status = status_of(error)
    resp.data = None
    resp.media = {"errcode": error.errcode, "error": error.message, **error.fields}
    if isinstance(error, errors.LimitExceeded):
        seconds = math.ceil(error.fields["retry_after_ms"] / 1000)
        resp.set_header("Retry-After", str(max(seconds, 1)))


def answer_http_error(
    req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: object
) -> None:
    """What Falcon itself refuses: unknown paths and methods, broken requests."""
    if isinstance(error, falcon.HTTPRouteNotFound | falcon.HTTPNotFound):
        matrix_error: MatrixError = errors.Unrecognized("There is no such endpoint.")
    elif isinstance(error, falcon.HTTPMethodNotAllowed):
        matrix_error = errors.MethodNotAllowed(f"{req.method} is no method of this endpoint.")
    elif isinstance(error, falcon.HTTPPayloadTooLarge):
        matrix_error = errors.TooLarge("The request is too large.")
    else:
        matrix_error = errors.InvalidParam(error.description or error.title or "Bad request.")
    answer_matrix_error(req, resp, matrix_error, params)
    for name, value in dict(error.headers or {}).items():
        resp.set_header(name, value)


def answer_unexpected(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: object
) -> None:
    """A defect of ours: logged once, here, with the request's ID."""
    request_id = req.env.get("architex.request_id", "-")
    log.error("%s %s failed [%s]", req.method, req.path, request_id, exc_info=error)
    resp.status = 500
    resp.data = None
    resp.media = {
        "errcode": "M_UNKNOWN",
        "error": f"The server failed to answer this; its log says why, under {request_id}.",
    }
