"""A proxy between us and PostgreSQL that knows where messages begin and end, and can break there.

It listens on a TCP port of the loopback address and passes everything on to the cluster's unix
socket, until a fault is armed and its statement comes by. Each fault happens once.

Protocol: https://www.postgresql.org/docs/18/protocol-message-formats.html
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, LiteralString

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

LATE_S: Final = 0.4
_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_CANCEL_REQUEST: Final = 80877102
_IDLE: Final = b"Z\0\0\0\5I"
_NO_PORTAL: Final = b"\0C34000\0"


class Kind(enum.Enum):
    """What happens at the chosen statement."""

    CUT_BEFORE = "the connection breaks before the statement is sent"
    CUT_AFTER = "it is carried out, and the connection breaks before the reply"
    CUT_WITHIN = "the connection breaks in the middle of the reply"
    LATE = "the client loses the connection; the statement arrives all the same, but late"
    ABANDONED = "before the statement the client vanishes, and PostgreSQL does not hear of it"
    SHUTDOWN = "PostgreSQL ends the connection: 57P01"
    CONFLICT = "PostgreSQL fails the statement: 40001"
    DEADLOCK = "PostgreSQL fails the statement: 40P01"
    STALL = "nothing moves for a while, in either direction"
    KILL_BEFORE = "before the statement is sent, its process is killed"
    KILL_AFTER = "it is carried out, and its process is killed before it hears of it"


SQLSTATES: Final = {Kind.CONFLICT: "40001", Kind.DEADLOCK: "40P01"}
KILLS: Final = (Kind.KILL_BEFORE, Kind.KILL_AFTER)


@dataclass
class Fault:
    """Something that goes wrong once.

    Attributes:
        kind: what.
        concerns: tells the statement: its SQL, and its number in its transaction, from 1.
        clients: only statements of these processes; empty for those of any.
    """

    kind: Kind
    concerns: Callable[[str, int], bool]
    clients: Collection[int] = ()
    happened: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction whose COMMIT was carried out.

    Attributes:
        xid: its number.
        flushed_lsn: up to where the write-ahead log was on disk before the client was told.
        is_durable: False when it said beforehand that it need not be.
    """

    xid: int
    flushed_lsn: int
    is_durable: bool


class CommitWatch:
    """Notes for each COMMIT how far the log was flushed before anybody heard of it."""

    def __init__(self, conninfo: str) -> None:
        self._connection = psycopg.connect(conninfo, autocommit=True)
        self._lock = threading.Lock()
        self.commits: list[Commit] = []

    def find_xid(self, backend_pid: int) -> int | None:
        """The transaction that a process of PostgreSQL writes in; None when it only reads."""
        found = self._ask(
            "SELECT backend_xid::text::bigint FROM pg_stat_activity WHERE pid = %s", backend_pid
        )
        return None if found is None else int(found)

    def note(self, xid: int, *, is_durable: bool) -> None:
        """It was committed; its client is told after this."""
        self.commits.append(Commit(xid, self.find_flushed(), is_durable))

    def find_flushed(self) -> int:
        """Up to where the log is on disk now."""
        return int(self._ask("SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')"))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, sql: LiteralString, *params: object) -> Any:
        with self._lock:
            row = self._connection.execute(sql, params).fetchone()
        return None if row is None else row[0]


class Broken(Exception):
    """The fault happened: this connection is done for."""


class PostgresProxy:
    """Passes connections on to a cluster; use it in a `with`."""

    def __init__(
        self, conninfo: str, *, stall_s: float = 0.5, watch: CommitWatch | None = None
    ) -> None:
        """Listen; connect to where `conninfo` says, for each client.

        Args:
            conninfo: of the cluster.
            stall_s: how long STALL lasts.
            watch: is told of every COMMIT.
        """
        self.stall_s = stall_s
        self.watch = watch
        self._target = conninfo_to_dict(conninfo)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._refusals = 0
        self._kept: list[socket.socket] = []
        self._pairs: set[_Pair] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def conninfo(self) -> str:
        """How to connect through the proxy."""
        port = self._listener.getsockname()[1]
        # Encryption is declined by not being asked for: fewer messages to know.
        return make_conninfo(
            **{
                **self._target,
                "host": "127.0.0.1",
                "port": port,
                "sslmode": "disable",
                "gssencmode": "disable",
            }
        )

    def arm(
        self, kind: Kind, concerns: Callable[[str, int], bool], clients: Collection[int] = ()
    ) -> Fault:
        """Let it go wrong, once, at the next statement that is concerned.

        Args:
            kind: what happens.
            concerns: see Fault.
            clients: process IDs, see Fault.
        """
        fault = Fault(kind, concerns, clients)
        with self._lock:
            self._fault = fault
        return fault

    def disarm(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._fault = None
            self._refusals = 0

    def refuse(self, connections: int) -> None:
        """Refuse so many new connections: 53300, too many connections."""
        with self._lock:
            self._refusals = connections

    def cut_all(self) -> None:
        """Break every connection there is."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.break_off()

    def take_fault(
        self, pair: _Pair, sql: str, number: int, *, abandons: bool = False
    ) -> Fault | None:
        """The armed fault if it concerns the statement; nobody else gets it."""
        with self._lock:
            fault = self._fault
            if fault is None or (fault.kind is Kind.ABANDONED) != abandons:
                return None
            if fault.clients and pair.find_client(fault.clients) is None:
                return None
            if not fault.concerns(sql, number):
                return None
            self._fault = None
        return fault

    def keep_open(self, server: socket.socket) -> None:
        """Keep a connection to PostgreSQL that nobody uses any more."""
        with self._lock:
            self._kept.append(server)

    def __enter__(self) -> PostgresProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for server in self._kept:
            server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                refused = self._refusals > 0
                self._refusals -= refused
            if refused:
                _read_startup(client)
                client.sendall(_error("FATAL", "53300", "sorry, too many clients already"))
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        directory, port = self._target["host"], self._target.get("port", 5432)
        try:
            server.connect(f"{directory}/.s.PGSQL.{port}")
        except OSError:
            client.close()
            server.close()
            return
        pair = _Pair(self, client, server)
        with self._lock:
            self._pairs.add(pair)
        try:
            pair.run()
        finally:
            with self._lock:
                self._pairs.discard(pair)


class _Pair:
    """One client and its connection to PostgreSQL."""

    def __init__(self, proxy: PostgresProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._statements: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._number = 0  # of the statement in its transaction
        self._sqlstate: bytes | None = None  # what the next error of PostgreSQL is to be
        self._held_back = b""
        self._greeting: bytes | None = b""
        self._backend_pid = 0
        self._committing: int | None = None
        self._is_durable = True

    def run(self) -> None:
        """Pass messages on until one side ends or the fault happens."""
        try:
            self._server.sendall(_read_startup(self._client))
            pending = b""
            while True:
                ready, _, _ = select.select([self._client, self._server], [], [])
                if self._server in ready:
                    self._client.sendall(self._watched(self._falsified(_receive(self._server))))
                if self._client in ready:
                    pending = self._pass_on(pending + _receive(self._client))
        except (OSError, Broken, ValueError):
            pass  # one side has gone, or is to seem so
        finally:
            self.break_off()

    def break_off(self) -> None:
        """End both connections."""
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pass_on(self, data: bytes) -> bytes:
        """Send whole messages to PostgreSQL; gives back what is not whole yet."""
        at = 0
        while len(data) - at >= 5:
            length = 1 + struct.unpack_from("!I", data, at + 1)[0]
            if len(data) - at < length:
                break
            message = data[at : at + length]
            sql = self._statement(message)
            if sql is None:
                self._abandon_before(message)
            else:
                self._count(sql)
                fault = self._proxy.take_fault(self, sql, self._number)
                if fault is not None:
                    message = self._happen(fault, message)
            self._server.sendall(message)
            at += length
        return data[at:]

    def _statement(self, message: bytes) -> str | None:
        """The SQL that a message carries out; None when it carries out none."""
        tag, body = message[:1], message[5:]
        if tag == b"Q":
            return body[:-1].decode()
        if tag == b"P":
            name, sql = body.split(b"\0", 2)[:2]
            self._statements[name] = sql.decode()
        elif tag == b"B":
            portal, name = body.split(b"\0", 2)[:2]
            self._portals[portal] = self._statements.get(name, "")
        elif tag == b"E":
            return self._portals.get(body.split(b"\0", 1)[0], "")
        return None

    def _count(self, sql: str) -> None:
        self._number = 1 if sql.lstrip().upper().startswith("BEGIN") else self._number + 1
        watch = self._proxy.watch
        if watch is None:
            return
        if self._number == 1:
            self._is_durable = True
        elif sql.startswith("SET LOCAL synchronous_commit"):
            self._is_durable = False
        elif sql.strip().upper() == "COMMIT":
            self._committing = watch.find_xid(self._backend_pid)

    def _watched(self, data: bytes) -> bytes:
        """What PostgreSQL answered; the answer to COMMIT is kept back until the watch noted it."""
        watch = self._proxy.watch
        if watch is None:
            return data
        if self._greeting is not None:
            self._greeting += data
            self._backend_pid = _find_backend_pid(self._greeting)
            if self._backend_pid:
                self._greeting = None
        if self._committing is None:
            return data
        self._held_back += data
        if not self._held_back.endswith(_IDLE):
            return b""
        answer, self._held_back = self._held_back, b""
        if b"COMMIT\0" in answer:
            watch.note(self._committing, is_durable=self._is_durable)
        self._committing = None
        return answer

    def _abandon_before(self, message: bytes) -> None:
        """Leave PostgreSQL alone before it hears anything of the statement that is concerned."""
        if message[:1] not in (b"P", b"B"):
            return
        named = message[5:].split(b"\0", 2)[1 if message[:1] == b"B" else 0]
        sql = self._statements.get(named, "")
        fault = self._proxy.take_fault(self, sql, self._number + 1, abandons=True)
        if fault is not None:
            self._client.close()
            self._proxy.keep_open(self._server)
            self._server = socket.socket()  # closed in its place
            fault.happened.set()
            raise Broken

    def _happen(self, fault: Fault, message: bytes) -> bytes:
        """Do what the fault says; gives the message to go on with.

        Raises Broken when the connection does not outlive it.
        """
        kind = fault.kind
        try:
            if kind in SQLSTATES:
                return self._failing(message, SQLSTATES[kind])
            if kind is Kind.STALL:
                time.sleep(self._proxy.stall_s)
                return message
            self._break(fault, message)
        finally:
            fault.happened.set()
        raise Broken

    def _break(self, fault: Fault, message: bytes) -> None:
        """Do what the fault says, up to where the connections are to be closed."""
        sync = b"S\0\0\0\4" if message[:1] == b"E" else b""
        kind = fault.kind
        if kind is Kind.SHUTDOWN:
            self._client.sendall(_error("FATAL", "57P01", "terminating connection"))
        elif kind in (Kind.CUT_AFTER, Kind.CUT_WITHIN, Kind.KILL_AFTER):
            self._server.sendall(message + sync)
            reply = self._read_until_ready()
            if kind is Kind.CUT_WITHIN:
                self._client.sendall(reply[: max(1, len(reply) // 2)])
        elif kind is Kind.LATE:
            self._client.close()
            time.sleep(LATE_S)
            self._server.sendall(message + sync)
            self._read_until_ready()
        if kind in KILLS:
            pid = self.find_client(fault.clients)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

    def find_client(self, candidates: Collection[int]) -> int | None:
        """Which of these processes is at the other end."""
        port = self._client.getpeername()[1]
        for pid in candidates:
            with contextlib.suppress(psutil.Error):
                for connection in psutil.Process(pid).net_connections("tcp4"):
                    if connection.laddr.port == port:
                        return pid
        return None

    def _failing(self, message: bytes, sqlstate: str) -> bytes:
        """In place of a statement, one that fails as told and leaves PostgreSQL knowing it."""
        if message[:1] == b"Q":
            raises = f"DO $$BEGIN RAISE 'torture' USING ERRCODE = '{sqlstate}'; END$$"
            return _message(b"Q", raises.encode() + b"\0")
        # A portal that does not exist fails, and only its code is to be another one.
        self._sqlstate = sqlstate.encode()
        return _message(b"E", b"no such portal\0" + struct.pack("!I", 0))

    def _falsified(self, data: bytes) -> bytes:
        """What PostgreSQL answered, with another code where it complains of the portal."""
        if self._sqlstate is None:
            return data
        data = self._held_back + data
        if _NO_PORTAL in data:
            data = data.replace(_NO_PORTAL, b"\0C" + self._sqlstate + b"\0", 1)
            self._sqlstate, self._held_back = None, b""
            return data
        # The error is under way: its beginning may be here already.
        self._held_back = data[-len(_NO_PORTAL) :]
        return data[: -len(_NO_PORTAL)]

    def _read_until_ready(self) -> bytes:
        """Everything PostgreSQL answers up to ReadyForQuery of the message just sent."""
        # Earlier parts of a pipeline have no ReadyForQuery of their own: theirs comes with ours.
        data = b""
        while not (len(data) >= 6 and data[-6:-1] == b"Z\0\0\0\5"):
            data += _receive(self._server)
        return data


def _read_startup(client: socket.socket) -> bytes:
    """The first message of a client, which has no type."""
    while True:
        head = _read_exactly(client, 4)
        message = head + _read_exactly(client, struct.unpack("!I", head)[0] - 4)
        code = struct.unpack_from("!I", message, 4)[0]
        if code in (_SSL_REQUEST, _GSS_REQUEST):
            client.sendall(b"N")
        elif code == _CANCEL_REQUEST:
            raise Broken
        else:
            return message


def _find_backend_pid(greeting: bytes) -> int:
    """The process of PostgreSQL that its first messages name; 0 when they do not yet."""
    at = 0
    while len(greeting) - at >= 9:
        if greeting[at : at + 1] == b"K":
            pid: int = struct.unpack_from("!I", greeting, at + 5)[0]
            return pid
        at += 1 + struct.unpack_from("!I", greeting, at + 1)[0]
    return 0


def _read_exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += _receive(end, size - len(data))
    return data


def _receive(end: socket.socket, size: int = 65_536) -> bytes:
    """What has come. Raises Broken at the end."""
    data = end.recv(size)
    if not data:
        raise Broken
    return data


def _error(severity: str, sqlstate: str, text: str) -> bytes:
    """An ErrorResponse."""
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text}
    body = b"".join(f"{name}{value}\0".encode() for name, value in fields.items()) + b"\0"
    return _message(b"E", body)


def _message(kind: bytes, body: bytes) -> bytes:
    """A message of the protocol."""
    return kind + struct.pack("!I", len(body) + 4) + body
