"""Push rules.

Spec: https://spec.matrix.org/v1.19/client-server-api/#push-rules-api
"""

from __future__ import annotations

from typing import Any

import falcon

from architex.api.fields import TrueOrFalse
from architex.api.requests import BodySchema, json_body, load, require_user, string_param
from architex.domain.errors import InvalidParam
from architex.usecases.push_rules import PushRules


class EnabledSchema(BodySchema):
    """Body that switches a rule on or off."""

    enabled = TrueOrFalse(required=True)


_ENABLED = EnabledSchema()


class IncompletePathResource:
    """Paths that name too little, or what does not exist, to say which rule they mean."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **_path: str) -> None:
        """Refuse."""
        require_user(req)
        raise InvalidParam("The path of a push rule is /pushrules/global/{kind}/{ruleId}.")

    on_put = on_get
    on_delete = on_get


class _PushRules(IncompletePathResource):
    """What the resources share."""

    def __init__(self, push_rules: PushRules) -> None:
        self._push_rules = push_rules


class PushRulesResource(_PushRules):
    """GET /pushrules/."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **_path: str) -> None:
        """All rulesets.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrules
        """
        resp.media = {"global": self._push_rules.get_ruleset(require_user(req).user_id)}


class GlobalPushRulesResource(_PushRules):
    """GET /pushrules/global/."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **_path: str) -> None:
        """The global ruleset.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobal
        """
        resp.media = self._push_rules.get_ruleset(require_user(req).user_id)


class PushRulesOfKindResource(_PushRules):
    """GET /pushrules/global/{kind}/."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **path: str) -> None:
        """The rules of one kind."""
        resp.media = self._push_rules.list_rules(require_user(req).user_id, path["kind"])


class PushRuleResource:
    """GET, PUT and DELETE /pushrules/global/{kind}/{ruleId}."""

    def __init__(self, push_rules: PushRules) -> None:
        self._push_rules = push_rules

    def on_get(self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str) -> None:
        """One rule.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleid
        """
        resp.media = self._push_rules.get_rule(require_user(req).user_id, kind, rule_id)

    def on_put(self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str) -> None:
        """Add or change a rule.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleid
        """
        user_id = require_user(req).user_id
        self._push_rules.set_rule(
            user_id,
            kind,
            rule_id,
            json_body(req),
            before=string_param(req, "before"),
            after=string_param(req, "after"),
        )
        resp.media = {}

    def on_delete(
        self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str
    ) -> None:
        """Delete a rule.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3pushrulesglobalkindruleid
        """
        self._push_rules.delete_rule(require_user(req).user_id, kind, rule_id)
        resp.media = {}


class PushRuleEnabledResource:
    """GET and PUT /pushrules/global/{kind}/{ruleId}/enabled."""

    def __init__(self, push_rules: PushRules) -> None:
        self._push_rules = push_rules

    def on_get(self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str) -> None:
        """Whether a rule is enabled.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidenabled
        """
        rule = self._push_rules.get_rule(require_user(req).user_id, kind, rule_id)
        resp.media = {"enabled": rule["enabled"]}

    def on_put(self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str) -> None:
        """Switch a rule on or off.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidenabled
        """
        user_id = require_user(req).user_id
        enabled: bool = load(_ENABLED, json_body(req))["enabled"]
        self._push_rules.set_enabled(user_id, kind, rule_id, enabled)
        resp.media = {}


class PushRuleActionsResource:
    """GET and PUT /pushrules/global/{kind}/{ruleId}/actions."""

    def __init__(self, push_rules: PushRules) -> None:
        self._push_rules = push_rules

    def on_get(self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str) -> None:
        """What a rule does.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidactions
        """
        rule: dict[str, Any] = self._push_rules.get_rule(require_user(req).user_id, kind, rule_id)
        resp.media = {"actions": rule["actions"]}

    def on_put(self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str) -> None:
        """Set what a rule does.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidactions
        """
        user_id = require_user(req).user_id
        self._push_rules.set_actions(user_id, kind, rule_id, json_body(req))
        resp.media = {}
