"""One process of the torture: several writers over one commit queue, some of whom give up.

    python -m tests.torture.writer CONNINFO SEED WRITERS COMMANDS ROOM…   [--gevent]

What was committed goes to standard output, one JSON line each: what the caller was told, after it
was told. The test compares it with what a reader saw.
"""

from __future__ import annotations

import sys

# Before anything else is imported, as gunicorn's gevent workers do it.
if "--gevent" in sys.argv:
    sys.argv.remove("--gevent")
    from gevent import monkey

    monkey.patch_all()

import json
import threading
import time
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

from architex.bootstrap import Core
from architex.domain.errors import DatabaseUnavailable, Forbidden, MatrixError
from architex.storage.pool import Database, Execute
from architex.storage.room_session import RoomCommand, RoomSession
from architex.storage.transactions import TransactionKey
from tests.core import ALICE, BOB, make_core, message_draft

CREATE_ROWS = "CREATE TABLE torture_rows (position bigint PRIMARY KEY, name text NOT NULL UNIQUE)"
INSERT_ROW = "INSERT INTO torture_rows (position, name) VALUES (%s, %s)"

_output = threading.Lock()


class Abort(Exception):
    """A writer that changed its mind."""


class Writer:
    """Writes, and gives up now and then, in every way there is."""

    def __init__(self, core: Core, name: str, seed: str, rooms: list[str]) -> None:
        self._core = core
        self._name = name
        self._chance = Random(seed)  # noqa: S311 - not for secrets
        self._rooms = rooms
        self._number = 0

    def run(self, commands: int) -> None:
        """Do so many things, one after the other."""
        deeds = [
            (self._send, 10),
            (self._send_with_transaction, 6),
            (self._write_row, 4),
            (self._send_with_row, 3),
            (self._forbidden, 2),
            (self._abort_decision, 1),
            (self._abort_rows, 1),
            (self._roll_back_with_position, 2),
        ]
        for _ in range(commands):
            self._number += 1
            deed = self._chance.choices([d for d, _ in deeds], [w for _, w in deeds])[0]
            try:
                deed(f"{self._name}-{self._number}")
            except (Abort, Forbidden):
                continue
            except DatabaseUnavailable:
                # The outcome is unknown; whether it was written, the reader finds out.
                _say(kind="unknown", name=f"{self._name}-{self._number}")

    # What is committed

    def _send(self, name: str) -> None:
        event_id = self._write_room(lambda session: self._append(session, name))
        _say(kind="event", name=name, event_id=event_id)

    def _send_with_transaction(self, name: str) -> None:
        room_id = self._chance.choice(self._rooms)
        key = TransactionKey(ALICE, "DEVICE", f"/rooms/{room_id}/send/m.room.message", name)
        command: RoomCommand[str] = RoomCommand(
            room_id, lambda session: self._append(session, name), transaction=key
        )
        told = {self._core.commits.write_room(command)}
        if self._chance.random() < 0.5:
            told.add(self._core.commits.write_room(command))
        _say(kind="event", name=name, event_id=told.pop())
        if told:
            _say(kind="doubled", name=name, event_id=told.pop())

    def _write_row(self, name: str) -> None:
        durable = self._chance.random() < 0.5
        position = self._core.commits.write_rows(
            lambda execute, position: execute(INSERT_ROW, (position, name)), durable=durable
        )
        _say(kind="row", name=name, position=position)

    def _send_with_row(self, name: str) -> None:
        def decide(session: RoomSession) -> str:
            event_id = self._append(session, name)
            session.also(lambda execute, position: execute(INSERT_ROW, (position, name)))
            return event_id

        event_id = self._write_room(decide)
        _say(kind="event", name=name, event_id=event_id)

    # What is not

    def _forbidden(self, name: str) -> None:
        def decide(session: RoomSession) -> str:
            self._append(session, f"never {name}")
            # Bob is in none of the rooms: the whole decision is refused.
            return session.append(message_draft(BOB, f"never {name}")).event_id

        self._write_room(decide)
        _say(kind="wrong", name=name)

    def _abort_decision(self, name: str) -> None:
        def decide(session: RoomSession) -> str:
            self._append(session, f"never {name}")
            raise Abort

        self._write_room(decide)
        _say(kind="wrong", name=name)

    def _abort_rows(self, name: str) -> None:
        def write(execute: Execute, position: int) -> None:
            execute(INSERT_ROW, (position, f"never {name}"))
            raise Abort

        self._core.commits.write_rows(write)
        _say(kind="wrong", name=name)

    def _roll_back_with_position(self, name: str) -> None:
        """Take the position row by hand, sit on it for a moment, and give up."""
        with self._core.database.transaction() as connection:
            connection.execute("UPDATE log_position SET position = position + 3")
            connection.execute(INSERT_ROW, (-self._chance.getrandbits(60), f"never {name}"))
            self._pause()
            raise Abort

    # Within

    def _write_room(self, decide: object) -> str:
        room_id = self._chance.choice(self._rooms)
        told: str = self._core.commits.write_room(RoomCommand(room_id, decide))  # type: ignore[arg-type] # a decision that returns an event ID
        return told

    def _append(self, session: RoomSession, body: str) -> str:
        if self._chance.random() < 0.1:
            self._pause()
        return session.append(message_draft(ALICE, body)).event_id

    def _pause(self) -> None:
        time.sleep(self._chance.random() * 0.01)


def _say(**what: object) -> None:
    with _output:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Run the writers of this process to their end."""
    conninfo, seed, writers, commands, *rooms = sys.argv[1:]
    database = Database(conninfo, max_size=8, wait_seconds=20)
    core = make_core(database)
    threads = [
        threading.Thread(
            target=Writer(core, f"{seed}-{n}", f"{seed}/{n}", rooms).run, args=(int(commands),)
        )
        for n in range(int(writers))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()


if __name__ == "__main__":
    try:
        main()
    except MatrixError as error:
        sys.exit(f"{error.errcode}: {error}")
