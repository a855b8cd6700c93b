"""Push rules: the ones every user has.

Spec: https://spec.matrix.org/v1.19/client-server-api/#push-rules-api
"""

from __future__ import annotations

import falcon

from architex.api.requests import require_user
from architex.domain.errors import InvalidParam, NotFound
from architex.domain.push_rules import (
    PUSH_RULE_KINDS,
    PushRule,
    default_push_rules,
    find_push_rule,
)


class PushRulesResource:
    """GET /pushrules/."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All rulesets.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrules
        """
        resp.media = {"global": default_push_rules(require_user(req).user_id)}


class GlobalPushRulesResource:
    """GET /pushrules/global/."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The global ruleset.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobal
        """
        resp.media = default_push_rules(require_user(req).user_id)


class PushRuleResource:
    """GET /pushrules/global/{kind}/{ruleId}."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str) -> None:
        """One rule.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleid
        """
        resp.media = _get_rule(req, kind, rule_id)


class PushRuleEnabledResource:
    """GET /pushrules/global/{kind}/{ruleId}/enabled."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str) -> None:
        """Whether a rule is enabled.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidenabled
        """
        resp.media = {"enabled": _get_rule(req, kind, rule_id)["enabled"]}


class PushRuleActionsResource:
    """GET /pushrules/global/{kind}/{ruleId}/actions."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, kind: str, rule_id: str) -> None:
        """What a rule does.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidactions
        """
        resp.media = {"actions": _get_rule(req, kind, rule_id)["actions"]}


def _get_rule(req: falcon.Request, kind: str, rule_id: str) -> PushRule:
    requester = require_user(req)
    if kind not in PUSH_RULE_KINDS:
        raise InvalidParam(f"The kinds of push rules are {', '.join(PUSH_RULE_KINDS)}.")
    rule = find_push_rule(default_push_rules(requester.user_id), kind, rule_id)
    if rule is None:
        raise NotFound("There is no such push rule.")
    return rule
