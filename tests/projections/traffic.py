"""Random traffic in rooms: everything that projections look at, in any order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random  # noqa: TID251 - seeded: the same traffic each time
from typing import Any

from architex.bootstrap import Core
from architex.domain.errors import MatrixError
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.events import PduRejected, PduSoftFailed
from architex.storage.pool import Database
from architex.storage.room_session import RoomCommand, RoomSession
from tests.core import ALICE, SERVER_NAME, create_room

USERS = [ALICE, *(f"@user{n}:{SERVER_NAME}" for n in range(5))]
NAMES = ["Garden", "Über uns", "\0", "", "三毛猫", "garden\0party"]


class RandomTraffic:
    """Rooms in which users do what they please; refusals are part of it."""

    def __init__(self, core: Core, seed: int) -> None:
        self.core = core
        self.random = Random(seed)  # noqa: S311 - no secrets
        self.rooms: list[RoomId] = []
        self.events: dict[RoomId, list[Pdu]] = {}
        self.actions: list[Callable[[RoomId, UserId], EventDraft]] = [
            self._message,
            self._message,
            self._state,
            self._state,
            self._join,
            self._leave,
            self._redaction,
        ]

    def run(self, steps: int) -> None:
        """Do so many things."""
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        """Do one thing: mostly an event, sometimes several, a room, or what other servers do."""
        if len(self.rooms) < 2 or self.random.random() < 0.02:
            version = self.random.choice(["1", "5", "10", "11", "12"])
            room_id = create_room(self.core, version=version)
            self.rooms.append(room_id)
            self.events[room_id] = []
            return
        room_id = self.random.choice(self.rooms)
        drafts = []
        for _ in range(self.random.choice([1, 1, 1, 3])):
            user_id = self.random.choice(USERS)
            drafts.append(self.random.choice(self.actions)(room_id, user_id))
        strange = self.random.random() < 0.1

        def decide(session: RoomSession) -> list[Pdu]:
            if strange:
                return self._strange(session)
            return [session.append(draft) for draft in drafts]

        try:
            self.events[room_id] += self.core.commits.write_room(RoomCommand(room_id, decide))
        except MatrixError:
            return

    def _message(self, room_id: RoomId, user_id: UserId) -> EventDraft:
        content: dict[str, Any] = {"body": "hello", "url": "mxc://a/b"}
        content['"state_key":'] = '"state_key":'
        if self.events[room_id] and self.random.random() < 0.5:
            rel_type = self.random.choice(["m.thread", "m.replace", "m.annotation", "\0", 7])
            target = self.random.choice([*self.events[room_id][-5:], None])
            content["m.relates_to"] = {
                "rel_type": rel_type,
                "event_id": "a\0b" if target is None else target.event_id,
                "key": self.random.choice(["x", "\0", "x" * 999, None]),
            }
        return EventDraft("m.room.message", user_id, content)

    def _state(self, room_id: RoomId, user_id: UserId) -> EventDraft:
        text = self.random.choice(NAMES)
        choices: list[tuple[str, dict[str, Any]]] = [
            ("m.room.name", {"name": text}),
            ("m.room.topic", {"topic": text}),
            ("m.room.topic", {"topic": text, "m.topic": {"m.text": [{"body": "block"}]}}),
            ("m.room.avatar", {"url": text}),
            ("m.room.canonical_alias", {"alias": f"#a:{SERVER_NAME}"}),
            ("m.room.join_rules", {"join_rule": self.random.choice(["public", "invite"])}),
            ("m.room.history_visibility", {"history_visibility": "world_readable"}),
            ("m.room.guest_access", {"guest_access": "can_join"}),
            ("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}),
            ("org.example.other", {"name": text}),
        ]
        type_, content = self.random.choice(choices)
        return EventDraft(type_, user_id, content, "")

    def _join(self, room_id: RoomId, user_id: UserId) -> EventDraft:
        content = {
            "membership": "join",
            "displayname": self.random.choice(NAMES),
            "avatar_url": self.random.choice(["mxc://a/b", 7, None]),
        }
        return EventDraft("m.room.member", user_id, content, user_id)

    def _leave(self, room_id: RoomId, user_id: UserId) -> EventDraft:
        target = self.random.choice([user_id, self.random.choice(USERS)])
        membership = self.random.choice(["leave", "ban", "invite"])
        return EventDraft("m.room.member", user_id, {"membership": membership}, target)

    def _redaction(self, room_id: RoomId, user_id: UserId) -> EventDraft:
        # Now and then of another room's event, which must change nothing there.
        among = self.random.choice([room_id, room_id, self.random.choice(self.rooms)])
        events = self.events[among]
        if not events:
            return self._message(room_id, user_id)
        state = [pdu for pdu in events if pdu.is_state]
        target = self.random.choice(self.random.choice([events, state or events]))
        return EventDraft(
            "m.room.redaction",
            user_id,
            {"redacts": target.event_id},
            redacts=target.event_id,
        )

    def _strange(self, session: RoomSession) -> list[Pdu]:
        """A fact as other servers and state resolutions make them."""
        room_id = session.room.room_id
        keys: list[StateKey] = [("m.room.create", ""), ("m.room.power_levels", "")]
        for type_, state_key in [*keys, ("m.room.member", ALICE), ("m.room.join_rules", "")]:
            session.find_state(type_, state_key)
        draft = self.random.choice([self._message, self._state])(room_id, ALICE)
        session.find_state(draft.type, draft.state_key or "")
        pdu = session.room.compose(
            draft,
            self.core.commits.signer,
            session.now_ms,
            opaque_id=self.core.randomness.token_urlsafe(18),
        )
        fact = session.room.accepted(pdu, session.now_ms)
        kind = self.random.choice(["rejected", "soft-failed", "delta", "delta"])
        if kind == "delta":
            session.record(dataclasses.replace(fact, delta=self._delta(room_id, pdu)))
            return [pdu]
        verdict = PduRejected if kind == "rejected" else PduSoftFailed
        session.record(
            verdict(
                originator_id=room_id,
                originator_version=fact.originator_version,
                pdu=pdu,
                received_ts=session.now_ms,
                reason="for the test",
            )
        )
        return []

    def _delta(self, room_id: RoomId, pdu: Pdu) -> dict[StateKey, EventId | None]:
        """Entries that go away or come back."""
        delta: dict[StateKey, EventId | None] = {}
        if pdu.is_state:
            delta[pdu.key] = pdu.event_id
        changeable = ("m.room.name", "m.room.topic", "m.room.avatar", "m.room.guest_access")
        earlier = [known for known in self.events[room_id] if known.type in changeable]
        if earlier:
            known = self.random.choice(earlier)
            delta[known.key] = self.random.choice([None, known.event_id])
        return delta


def rows_of(database: Database, table: str) -> list[str]:
    """All rows of a table as text, in an order of their own."""
    rows = database.fetch_all(f"SELECT t::text FROM {table} t")  # noqa: S608 - the tests' names
    return sorted(row[0] for row in rows)
