"""Locking and suspending accounts, by administrators.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-administration
"""

from __future__ import annotations

import falcon

from architex.api.fields import TrueOrFalse
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.usecases.account_moderation import AccountModeration


class _LockedSchema(BodySchema):
    locked = TrueOrFalse(required=True)


class _SuspendedSchema(BodySchema):
    suspended = TrueOrFalse(required=True)


_LOCKED = _LockedSchema()
_SUSPENDED = _SuspendedSchema()


class _Moderated:
    """What the resources share."""

    def __init__(self, moderation: AccountModeration) -> None:
        self._moderation = moderation


class LockResource(_Moderated):
    """GET and PUT /admin/lock/{userId}."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """Whether an account is locked.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1adminlockuserid
        """
        resp.media = {"locked": self._moderation.find_account(require_user(req), user_id).locked}

    def on_put(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """Lock an account, or unlock it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv1adminlockuserid
        """
        requester = require_user(req)
        locked = load(_LOCKED, json_body(req))["locked"]
        self._moderation.set_locked(requester, user_id, locked)
        resp.media = {"locked": locked}


class SuspendResource(_Moderated):
    """GET and PUT /admin/suspend/{userId}."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """Whether an account is suspended.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1adminsuspenduserid
        """
        account = self._moderation.find_account(require_user(req), user_id)
        resp.media = {"suspended": account.suspended}

    def on_put(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """Suspend an account, or end that.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv1adminsuspenduserid
        """
        requester = require_user(req)
        suspended = load(_SUSPENDED, json_body(req))["suspended"]
        self._moderation.set_suspended(requester, user_id, suspended)
        resp.media = {"suspended": suspended}
