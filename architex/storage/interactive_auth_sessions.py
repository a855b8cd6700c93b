"""User-interactive authentication under way: what a session was begun for, and how far it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from architex.domain.identifiers import UserId
from architex.storage.pool import Database


@dataclass(frozen=True, slots=True)
class InteractiveAuthSession:
    """One session of user-interactive authentication.

    Attributes:
        operation: method and path it was begun for; it is good for no other.
        user_id: who began it; None when nobody was logged in.
        request: the body of the first request, without `auth` and with no secret in it.
        flows: lists of stages, one of which is to be completed.
        completed: the stages completed so far, in their order.
        registration_token: the one that completed m.login.registration_token.
        outcome: of a finished operation, for a client that asks again.
        proven_user_id: whom a stage has shown to be at work.
        email: the address that m.login.email.identity has shown to be theirs, canonical.
        email_validated_ts: when that was shown, in milliseconds since 1970.
        expires_ts: milliseconds since 1970.
    """

    session_id: str
    operation: str
    user_id: UserId | None
    request: Mapping[str, Any]
    flows: Sequence[Sequence[str]]
    completed: Sequence[str]
    registration_token: str | None
    outcome: str | None
    expires_ts: int
    proven_user_id: UserId | None = None
    email: str | None = None
    email_validated_ts: int | None = None


class InteractiveAuthSessionStore:
    """The interactive_auth_sessions table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_session(self, session: InteractiveAuthSession, now_ms: int) -> None:
        """Remember a new session; forgets the expired ones."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM interactive_auth_sessions WHERE expires_ts <= %s", (now_ms,)
            )
            connection.execute(
                "INSERT INTO interactive_auth_sessions (session_id, operation, user_id, request,"
                " flows, completed, registration_token, outcome, expires_ts)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    session.session_id,
                    session.operation,
                    session.user_id,
                    orjson.dumps(session.request).decode(),
                    orjson.dumps(session.flows).decode(),
                    list(session.completed),
                    session.registration_token,
                    session.outcome,
                    session.expires_ts,
                ),
            )

    def find_session(self, session_id: str, now_ms: int) -> InteractiveAuthSession | None:
        """The session; None when it is unknown or expired."""
        row = self._database.fetch_one(
            "SELECT session_id, operation, user_id, request, flows, completed,"
            " registration_token, outcome, expires_ts, proven_user_id, email,"
            " email_validated_ts FROM interactive_auth_sessions"
            " WHERE session_id = %s AND expires_ts > %s",
            (session_id, now_ms),
        )
        if row is None:
            return None
        return InteractiveAuthSession(
            session_id=row[0],
            operation=row[1],
            user_id=row[2],
            request=orjson.loads(row[3]),
            flows=orjson.loads(row[4]),
            completed=tuple(row[5]),
            registration_token=row[6],
            outcome=row[7],
            expires_ts=row[8],
            proven_user_id=row[9],
            email=row[10],
            email_validated_ts=row[11],
        )

    def add_completed(
        self,
        session_id: str,
        stage: str,
        *,
        registration_token: str | None = None,
        proven_user_id: UserId | None = None,
        email: str | None = None,
        email_validated_ts: int | None = None,
    ) -> None:
        """Note a completed stage, once, and what it has shown."""
        self._database.execute(
            "UPDATE interactive_auth_sessions SET completed = array_append(completed, %(stage)s),"
            " registration_token = coalesce(%(token)s, registration_token),"
            " proven_user_id = coalesce(%(user_id)s, proven_user_id),"
            " email = coalesce(%(email)s, email),"
            " email_validated_ts = coalesce(%(validated_ts)s, email_validated_ts)"
            " WHERE session_id = %(session_id)s AND NOT (%(stage)s = ANY(completed))",
            {
                "stage": stage,
                "token": registration_token,
                "user_id": proven_user_id,
                "email": email,
                "validated_ts": email_validated_ts,
                "session_id": session_id,
            },
        )

    def set_outcome(self, session_id: str, outcome: str) -> None:
        """Note what the operation led to."""
        self._database.execute(
            "UPDATE interactive_auth_sessions SET outcome = %s WHERE session_id = %s",
            (outcome, session_id),
        )

    def delete_session(self, session_id: str) -> bool:
        """Forget a session; False when that has happened already."""
        return (
            self._database.execute(
                "DELETE FROM interactive_auth_sessions WHERE session_id = %s", (session_id,)
            )
            == 1
        )
