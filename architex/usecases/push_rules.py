"""Push rules: reading and changing one's own.

Spec: https://spec.matrix.org/v1.19/client-server-api/#push-rules-api
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.errors import InvalidParam, MatrixError, NotFound, TooLarge
from architex.domain.identifiers import UserId
from architex.domain.push_rules import (
    PUSH_RULE_KINDS,
    PushRule,
    Ruleset,
    effective_push_rules,
    find_push_rule,
    is_predefined,
    parse_push_actions,
    parse_push_rule,
)
from architex.storage.commit_queue import CommitQueue
from architex.storage.pool import Execute
from architex.storage.push_rules import (
    PushRuleStore,
    delete_push_rule,
    put_push_rule,
    set_push_rule_actions,
    set_push_rule_enabled,
)

MAX_RULES: Final = 2000
MAX_RULE_BYTES: Final = 65_536


@dataclass(frozen=True)
class PushRules:
    """The push rules of whoever asks. Kinds that do not exist raise InvalidParam everywhere."""

    rules: PushRuleStore
    commits: CommitQueue

    def get_ruleset(self, user_id: UserId) -> Ruleset:
        """All rules of a user: kind → rules, the most important first.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobal
        """
        return effective_push_rules(user_id, self.rules.list_changed(user_id))

    def list_rules(self, user_id: UserId, kind: str) -> list[PushRule]:
        """The rules of one kind, the most important first."""
        _check_kind(kind)
        return self.get_ruleset(user_id)[kind]

    def get_rule(self, user_id: UserId, kind: str, rule_id: str) -> PushRule:
        """One rule.

        Raises:
            NotFound: there is none of this kind and ID.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleid
        """
        _check_kind(kind)
        rule = find_push_rule(self.get_ruleset(user_id), kind, rule_id)
        if rule is None:
            raise NotFound("There is no such push rule.")
        return rule

    def set_rule(
        self,
        user_id: UserId,
        kind: str,
        rule_id: str,
        body: Mapping[str, Any],
        *,
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        """Add a rule of the user's own, or change it.

        Args:
            before, after: the rule of the user's own beside which it shall stand.

        Raises:
            InvalidParam: the ID cannot be a rule's, or the user has too many rules.
            MissingParam, BadJson: the body is not that of a rule of this kind.
            TooLarge: it is too large.
            MatrixError: the user has no rule `before` or `after`.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleid
        """
        _check_kind(kind)
        rule = parse_push_rule(kind, rule_id, body)
        if len(encode_lenient_json(body)) > MAX_RULE_BYTES:
            raise TooLarge(f"A push rule has at most {MAX_RULE_BYTES} bytes.")
        own = [
            (changed.kind, changed.rule_id)
            for changed in self.rules.list_changed(user_id)
            if not is_predefined(changed.rule_id)
        ]
        for neighbour in (before, after):
            if neighbour is not None and (neighbour == rule_id or (kind, neighbour) not in own):
                raise MatrixError(f"before/after rule not found: {neighbour}")
        if len(own) >= MAX_RULES and (kind, rule_id) not in own:
            raise InvalidParam(f"A user has at most {MAX_RULES} push rules.")

        def write(execute: Execute, position: int) -> None:
            put_push_rule(execute, position, user_id, rule, before=before, after=after)

        self.commits.write_rows(write, wake_users=[user_id])

    def delete_rule(self, user_id: UserId, kind: str, rule_id: str) -> None:
        """Delete a rule of the user's own.

        Raises:
            NotFound: there is no such rule of the user's own.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3pushrulesglobalkindruleid
        """
        self.get_rule(user_id, kind, rule_id)
        if is_predefined(rule_id):
            raise NotFound("Predefined rules can be disabled, but not deleted.")

        def write(execute: Execute, position: int) -> None:
            delete_push_rule(execute, position, user_id, kind, rule_id)

        self.commits.write_rows(write, wake_users=[user_id])

    def set_enabled(self, user_id: UserId, kind: str, rule_id: str, enabled: bool) -> None:
        """Switch a rule on or off.

        Raises:
            NotFound: there is no such rule.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidenabled
        """
        self.get_rule(user_id, kind, rule_id)

        def write(execute: Execute, position: int) -> None:
            set_push_rule_enabled(execute, position, user_id, kind, rule_id, enabled)

        self.commits.write_rows(write, wake_users=[user_id])

    def set_actions(
        self, user_id: UserId, kind: str, rule_id: str, body: Mapping[str, Any]
    ) -> None:
        """Set what a rule does.

        Args:
            body: holds the `actions`.

        Raises:
            NotFound: there is no such rule.
            MissingParam, BadJson: these are no actions.
            TooLarge: there are too many.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidactions
        """
        actions = parse_push_actions(body)
        if len(encode_lenient_json(actions)) > MAX_RULE_BYTES:
            raise TooLarge(f"A push rule has at most {MAX_RULE_BYTES} bytes.")
        self.get_rule(user_id, kind, rule_id)

        def write(execute: Execute, position: int) -> None:
            set_push_rule_actions(execute, position, user_id, kind, rule_id, actions)

        self.commits.write_rows(write, wake_users=[user_id])


def _check_kind(kind: str) -> None:
    if kind not in PUSH_RULE_KINDS:
        raise InvalidParam(f"The kinds of push rules are {', '.join(PUSH_RULE_KINDS)}.")
