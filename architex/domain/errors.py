"""The MatrixError family: an errcode, a sentence for a person, extra response fields; no HTTP.

Spec: https://spec.matrix.org/v1.19/client-server-api/#standard-error-response
"""

from __future__ import annotations

from typing import Any, ClassVar


class MatrixError(Exception):
    """Something the caller did (or met) that has a name in the Matrix specification.

    Attributes:
        errcode: the spec's error code.
        message: one sentence that helps the person who reads it.
        fields: further fields of the JSON response body.
    """

    errcode: ClassVar[str] = "M_UNKNOWN"

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields


class Forbidden(MatrixError):
    """The requester may not do this."""

    errcode = "M_FORBIDDEN"


class MalformedEvent(Forbidden):
    """An event that the authorization rules take from nobody: it lacks the form they ask for."""

    errcode = "M_BAD_JSON"


class NotFound(MatrixError):
    """There is no such thing, or it may not be seen."""

    errcode = "M_NOT_FOUND"


class UnknownRoom(NotFound):
    """This server knows no such room."""


class Unrecognized(MatrixError):
    """No such endpoint."""

    errcode = "M_UNRECOGNIZED"


class MethodNotAllowed(MatrixError):
    """The endpoint exists, with other methods."""

    errcode = "M_UNRECOGNIZED"


class NotJson(MatrixError):
    """The body is no JSON."""

    errcode = "M_NOT_JSON"


class BadJson(MatrixError):
    """The body is JSON, but not of the form the endpoint takes."""

    errcode = "M_BAD_JSON"


class InvalidCanonicalJson(BadJson):
    """A value that canonical JSON cannot hold: a float, a huge integer, a lone surrogate."""


class InvalidPdu(BadJson):
    """An event that does not have the format of its room version."""


class InvalidParam(MatrixError):
    """A parameter is not of its grammar."""

    errcode = "M_INVALID_PARAM"


class InvalidRelation(MatrixError):
    """An event relates to another in a way that makes no sense."""


class DuplicateAnnotation(MatrixError):
    """The sender has annotated the event in the same way before."""

    errcode = "M_DUPLICATE_ANNOTATION"


class MissingParam(MatrixError):
    """A required parameter is absent."""

    errcode = "M_MISSING_PARAM"


class TooLarge(MatrixError):
    """A request or an event beyond its size limit."""

    errcode = "M_TOO_LARGE"


class MissingToken(MatrixError):
    """The request needs an access token and has none."""

    errcode = "M_MISSING_TOKEN"


class UnknownToken(MatrixError):
    """The access token is not (or no longer) valid. Field: soft_logout."""

    errcode = "M_UNKNOWN_TOKEN"


class Unauthorized(MatrixError):
    """The credentials of a server or a stage of authentication do not hold."""

    errcode = "M_UNAUTHORIZED"


class InvalidSignature(Unauthorized):
    """A signature is absent or does not verify."""


class InvalidKeySignature(MatrixError):
    """A key of end-to-end encryption lacks a signature that it needs, or has a bad one."""

    errcode = "M_INVALID_SIGNATURE"


class WrongRoomKeysVersion(Forbidden):
    """Not the current version of the key backup. Field: current_version."""

    errcode = "M_WRONG_ROOM_KEYS_VERSION"


class UserLimitExceeded(MatrixError):
    """The user has used up what an account may have. Field: info_uri, a page for the user."""

    errcode = "M_USER_LIMIT_EXCEEDED"

    def __init__(self, message: str, *, info_uri: str) -> None:
        super().__init__(message, info_uri=info_uri)


class LimitExceeded(MatrixError):
    """Too many requests. Field: retry_after_ms."""

    errcode = "M_LIMIT_EXCEEDED"

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)


class UserInUse(MatrixError):
    """The user ID is taken."""

    errcode = "M_USER_IN_USE"


class InvalidUsername(MatrixError):
    """The user ID is not one this server can give."""

    errcode = "M_INVALID_USERNAME"


class ExclusiveNamespace(MatrixError):
    """The name belongs to an application service."""

    errcode = "M_EXCLUSIVE"


class WeakPassword(MatrixError):
    """The password is not strong enough."""

    errcode = "M_WEAK_PASSWORD"


class UserDeactivated(MatrixError):
    """The account was deactivated."""

    errcode = "M_USER_DEACTIVATED"


class UserLocked(MatrixError):
    """The account is locked by an administrator. Field: soft_logout, always true."""

    errcode = "M_USER_LOCKED"

    def __init__(self, message: str) -> None:
        super().__init__(message, soft_logout=True)


class UserSuspended(MatrixError):
    """The account is suspended, and this is not among the things it may still do."""

    errcode = "M_USER_SUSPENDED"


class UnknownLoginType(MatrixError):
    """A way to log in that this server does not offer."""

    errcode = "M_UNKNOWN"


class ServerManagedAccountData(MatrixError):
    """Account data that the server keeps itself; clients change it by other endpoints."""

    errcode = "M_BAD_JSON"


class ProfileTooLarge(MatrixError):
    """The value would make the profile exceed its size limit."""

    errcode = "M_PROFILE_TOO_LARGE"


class KeyTooLarge(MatrixError):
    """The name of a profile field is longer than 255 bytes."""

    errcode = "M_KEY_TOO_LARGE"


class ThirdPartyInUse(MatrixError):
    """The e-mail address or phone number belongs to an account."""

    errcode = "M_THREEPID_IN_USE"


class ThirdPartyAuthFailed(MatrixError):
    """Nothing shows that the e-mail address or phone number is the requester's."""

    errcode = "M_THREEPID_AUTH_FAILED"


class ThirdPartyMediumNotSupported(MatrixError):
    """This server does not deal with such identifiers: phone numbers, or e-mail addresses."""

    errcode = "M_THREEPID_MEDIUM_NOT_SUPPORTED"


class ServerNotTrusted(MatrixError):
    """The identity server is none that this server talks to."""

    errcode = "M_SERVER_NOT_TRUSTED"


class GuestAccessForbidden(MatrixError):
    """Guests may not do this."""

    errcode = "M_GUEST_ACCESS_FORBIDDEN"


class RoomInUse(MatrixError):
    """The alias is taken."""

    errcode = "M_ROOM_IN_USE"


class AliasExists(MatrixError):
    """There is such an alias already."""

    errcode = "M_UNKNOWN"


class InvalidRoomState(MatrixError):
    """The initial state given for a room breaks the rules."""

    errcode = "M_INVALID_ROOM_STATE"


class UnsupportedRoomVersion(MatrixError):
    """The room version is not one this server has."""

    errcode = "M_UNSUPPORTED_ROOM_VERSION"


class IncompatibleRoomVersion(MatrixError):
    """The other server does not have the room's version. Field: room_version."""

    errcode = "M_INCOMPATIBLE_ROOM_VERSION"


class UnableToAuthoriseJoin(MatrixError):
    """This server cannot tell whether a user meets the conditions of a restricted room."""

    errcode = "M_UNABLE_TO_AUTHORISE_JOIN"


class UnableToGrantJoin(MatrixError):
    """Nobody of this server may let users into a restricted room; another server may."""

    errcode = "M_UNABLE_TO_GRANT_JOIN"


class InviteBlocked(Forbidden):
    """The invited user wants no invites."""

    errcode = "M_INVITE_BLOCKED"


class RefusedElsewhere(MatrixError):
    """Another server refused, for a reason that it names. Field: errcode, the other's."""


class RemoteFailed(MatrixError):
    """Another server, without which this cannot be done, does not answer or makes no sense."""


class BadAlias(MatrixError):
    """An alias in m.room.canonical_alias does not point at the room."""

    errcode = "M_BAD_ALIAS"


class BadState(MatrixError):
    """The room's or the user's state does not allow the change."""

    errcode = "M_BAD_STATE"


class CannotLeaveServerNoticeRoom(MatrixError):
    """The server notice room cannot be left."""

    errcode = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"


class UnknownPosition(MatrixError):
    """A token that this server never gave."""

    errcode = "M_UNKNOWN_POS"


class NotImplementedHere(MatrixError):
    """The server does not offer this choice of the specification."""

    errcode = "M_UNRECOGNIZED"


class NotYetUploaded(MatrixError):
    """The media was created, and its content has not come in the time that was waited."""

    errcode = "M_NOT_YET_UPLOADED"


class CannotOverwriteMedia(MatrixError):
    """The media has content already."""

    errcode = "M_CANNOT_OVERWRITE_MEDIA"


class CannotThumbnail(MatrixError):
    """There are no thumbnails of content of this kind."""

    errcode = "M_UNKNOWN"


class TooLargeElsewhere(MatrixError):
    """What another server has is larger than we take."""

    errcode = "M_TOO_LARGE"


class DatabaseUnavailable(MatrixError):
    """The database cannot be reached now; nothing was changed, or the outcome is unknown."""

    errcode = "M_UNKNOWN"
