"""Media of other servers: fetched once, within bounds, whatever they answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any, cast

import pytest

from architex.domain.errors import (
    LimitExceeded,
    MatrixError,
    NotFound,
    NotYetUploaded,
    RemoteFailed,
    TooLargeElsewhere,
)
from architex.domain.media import MediaUri
from architex.gateways.clock import SystemClock, SystemRandomness
from architex.gateways.errors import RemoteRefused, RemoteTooLarge, RemoteUnreachable
from architex.gateways.federation_client import FederationClient
from architex.gateways.http import OutboundHttp
from architex.gateways.media_files import LocalMediaFiles
from architex.gateways.off_loop import OffLoop
from architex.projections.media_references import RedactedMedia
from architex.settings import PRIVATE_NETWORKS
from architex.storage.media import MediaStore
from architex.storage.pool import Database
from architex.usecases.media_care import MediaCare, Retention
from architex.usecases.media_reading import MediaReading, Reader
from architex.usecases.rate_limits import RateLimit, RateLimits
from architex.usecases.remote_media import RemoteMedia
from tests.fakes.names import FakeNames
from tests.federation.authority import Authority
from tests.gateways.loopback import reply, serving

PEER = "peer.example"
NEW, OLD = "/_matrix/federation/v1/media/download/", "/_matrix/media/v3/download/peer.example/"
ALICE = Reader("@alice:us.example", True)


def in_parts(content: bytes, *headers: str) -> tuple[str, list[bytes]]:
    """What a server of today answers: its type, and its body."""
    lines = "".join(f"{line}\r\n" for line in headers)
    head = f"--b\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--b\r\n{lines}\r\n"
    return "multipart/mixed; boundary=b", [head.encode() + content, b"\r\n--b--\r\n"]


@dataclass
class FakeAnswer:
    """See architex.gateways.http.AnswerStream."""

    headers: Message
    body: Iterator[bytes]
    status: int = 200

    def read(self, at_most: int = 0) -> bytes:
        return next(self.body, b"")


Told = tuple[str, Iterable[bytes]] | Exception


@dataclass
class PeersMedia:
    """A FederationClient that only streams.

    Attributes:
        tell: path → what is answered; other paths are not known.
        headers: of every answer.
    """

    tell: dict[str, Told | Callable[[], Told]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @contextmanager
    def stream(
        self, method: str, destination: str, path: str, *_: Any, max_bytes: int, **__: Any
    ) -> Iterator[FakeAnswer]:
        assert (method, destination) == ("GET", PEER)
        self.asked.append(path)
        told = self.tell.get(path)
        if callable(told):
            told = told()
        if told is None:
            raise RemoteRefused(PEER, 404, {"errcode": "M_UNRECOGNIZED"})
        if isinstance(told, Exception):
            raise told
        headers = Message()
        headers["Content-Type"] = told[0]
        for name, value in self.headers.items():
            headers[name] = value

        def bounded() -> Iterator[bytes]:
            left = max_bytes
            for piece in told[1]:
                left -= len(piece)
                if left < 0:
                    raise RemoteTooLarge(PEER, "too large")
                yield piece

        yield FakeAnswer(headers, bounded())


@dataclass
class Ours:
    """What we do with it."""

    peer: PeersMedia
    remote: RemoteMedia
    reading: MediaReading
    care: MediaCare
    store: MediaStore
    directory: Path

    def read(self, media_id: str, reader: Reader = ALICE) -> bytes:
        content = self.reading.open(MediaUri(PEER, media_id), reader)
        return b"".join(content.pieces())

    @property
    def kept(self) -> int:
        """How many files there are on the disk."""
        return sum(path.is_file() for path in self.directory.rglob("*"))


def make_ours(
    database: Database,
    directory: Path,
    *,
    blocked: tuple[str, ...] = PRIVATE_NETWORKS,
    ca_file: Path | None = None,
    burst: int = 100,
    is_frozen: bool = True,
    share: int = 0,
) -> Ours:
    clock, peer, store = SystemClock(), PeersMedia(), MediaStore(database)
    files = LocalMediaFiles(directory / "media", SystemRandomness(), OffLoop())
    redacted = RedactedMedia(database, "us.example")
    kept = Retention(2500, 0, 0, cache_bytes_per_server=share)
    care = MediaCare(store, files, clock, kept, redacted, "us.example")
    remote = RemoteMedia(
        store=store,
        files=files,
        client=cast(FederationClient, peer),
        http=OutboundHttp(FakeNames(), clock, blocked_networks=blocked, ca_file=ca_file),
        rate_limits=RateLimits(clock, {"remote_media": RateLimit(0.001, burst)}, enabled=True),
        clock=clock,
        max_bytes=1000,
        cache_bytes=2500,
        make_room=care.make_room,
        is_frozen=is_frozen,
    )
    reading = MediaReading(store, files, remote, clock, "us.example", is_frozen)
    return Ours(peer, remote, reading, care, store, directory / "media")


@pytest.fixture
def ours(database: Database, tmp_path: Path) -> Ours:
    return make_ours(database, tmp_path)


def test_media_of_another_server_is_fetched_once(ours: Ours) -> None:
    ours.peer.tell[NEW + "one"] = in_parts(
        b"hello", "Content-Type: Text/Plain", 'Content-Disposition: inline; filename="a.txt"'
    )
    content = ours.reading.open(MediaUri(PEER, "one"), ALICE)
    assert (content.content_type, content.file_name) == ("text/plain", "a.txt")
    assert b"".join(content.pieces()) == b"hello"
    assert ours.read("one") == b"hello"
    assert ours.peer.asked == [NEW + "one"]


def test_many_at_once_are_one_fetch(ours: Ours) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def slowly() -> Told:
        arrived.set()
        assert go_on.wait(20)
        return in_parts(b"hello")

    ours.peer.tell[NEW + "one"] = slowly
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(ours.read("one"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert arrived.wait(20)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert found == [b"hello"] * 6
    assert ours.peer.asked == [NEW + "one"]


def test_servers_of_old_are_asked_as_of_old(ours: Ours) -> None:
    ours.peer.tell[OLD + "one"] = ("image/png", [b"pic", b"ture"])
    ours.peer.headers = {"Content-Disposition": "attachment; filename*=utf-8''%C3%A4.png"}
    content = ours.reading.open(MediaUri(PEER, "one"), ALICE)
    assert (content.content_type, content.file_name) == ("image/png", "ä.png")
    content.close()
    assert ours.peer.asked == [NEW + "one", OLD + "one"]


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (RemoteRefused(PEER, 404, {"errcode": "M_NOT_FOUND"}), NotFound),
        (RemoteRefused(PEER, 504, {"errcode": "M_NOT_YET_UPLOADED"}), NotYetUploaded),
        (RemoteRefused(PEER, 502, {"errcode": "M_TOO_LARGE"}), TooLargeElsewhere),
        (RemoteRefused(PEER, 429, {"errcode": "M_LIMIT_EXCEEDED"}), LimitExceeded),
        (RemoteRefused(PEER, 500, {}), RemoteFailed),
        (RemoteRefused(PEER, 403, {"errcode": "M_FORBIDDEN"}), RemoteFailed),
        (RemoteUnreachable(PEER, "gone"), RemoteFailed),
        (("text/html", [b"hello"]), RemoteFailed),
        (("multipart/mixed; boundary=b", [b"--b\r\n\r\n{}\r\n--b--"]), RemoteFailed),
        (("multipart/mixed; boundary=b", [b"--b\r\n\r\n{}\r\n--b\r\n\r\nhel"]), RemoteFailed),
        (("multipart/mixed; boundary=b", []), RemoteFailed),
        (in_parts(b"x" * 1001), TooLargeElsewhere),
    ],
)
def test_bad_answers_leave_nothing(ours: Ours, told: Told, kind: type[MatrixError]) -> None:
    ours.peer.tell[NEW + "one"] = told
    with pytest.raises(kind):
        ours.read("one")
    assert ours.kept == 0
    assert ours.store.find(MediaUri(PEER, "one")) is None


def test_endless_answer_ends(ours: Ours) -> None:
    def endless() -> Iterator[bytes]:
        yield b"--b\r\n\r\n{}\r\n--b\r\n\r\n"
        while True:
            yield b"x" * 100

    ours.peer.tell[NEW + "one"] = ("multipart/mixed; boundary=b", endless())
    with pytest.raises(TooLargeElsewhere):
        ours.read("one")
    assert ours.kept == 0


def test_type_and_name_from_outside_are_cleaned(ours: Ours) -> None:
    ours.peer.tell[NEW + "one"] = in_parts(
        b"x",
        "Content-Type: text/html, image/png",
        "Content-Disposition: inline; filename*=nonsense''%00../../x",
    )
    content = ours.reading.open(MediaUri(PEER, "one"), ALICE)
    content.close()
    assert content.content_type == "application/octet-stream"
    assert "\x00" not in (content.file_name or "")


# ---- elsewhere


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_content_that_is_kept_elsewhere_is_fetched_there(
    database: Database, tmp_path: Path, authority: Authority
) -> None:
    ours = make_ours(database, tmp_path, blocked=(), ca_file=authority.ca_file)
    certificate = authority.issue("127.0.0.1")
    with serving(reply(b"far", headers="Content-Type: image/gif\r\n"), certificate) as cdn:
        where = f"Location: https://127.0.0.1:{cdn.port}/file"
        ours.peer.tell[NEW + "one"] = in_parts(b"", where)
        content = ours.reading.open(MediaUri(PEER, "one"), ALICE)
        assert (content.content_type, b"".join(content.pieces())) == ("image/gif", b"far")
        assert cdn.requests[0].headers.get("authorization") is None
        ours.remote.http.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "https://127.0.0.1:{port}/",
        "https://0.0.0.0:{port}/",
        "https://[::1]:{port}/",
        "https://[::]:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
        "https://[::7f00:1]:{port}/",
        "https://[64:ff9b::7f00:1]:{port}/",
        "https://[2002:7f00:1::]:{port}/",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433:{port}/",
        "https://0x7f.1:{port}/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "//127.0.0.1:{port}/",
        "/etc/passwd",
        "https://user@127.0.0.1:{port}/",
    ],
)
def test_nobody_sends_us_where_we_must_not_go(ours: Ours, url: str) -> None:
    with serving(reply(b"secret")) as server:
        where = "Location: " + url.format(port=server.port)
        ours.peer.tell[NEW + "one"] = in_parts(b"", where)
        with pytest.raises(RemoteFailed):
            ours.read("one")
        assert server.connections == 0
    assert ours.kept == 0


# ---- who, and how much


def test_who_asks_for_too_much_is_stopped(database: Database, tmp_path: Path) -> None:
    ours = make_ours(database, tmp_path, burst=3)
    for number in range(3):
        ours.peer.tell[NEW + str(number)] = in_parts(b"x")
        ours.read(str(number))
    ours.peer.tell[NEW + "more"] = in_parts(b"x")
    with pytest.raises(LimitExceeded):
        ours.read("more")
    assert ours.read("more", Reader("@bob:us.example", True)) == b"x"
    assert ours.read("1") == b"x"  # what is here counts no more


def test_nobody_without_a_token_has_us_fetch_anything(ours: Ours) -> None:
    ours.peer.tell[NEW + "one"] = in_parts(b"x")
    for reader in (Reader("192.0.2.7", False), Reader(None, True), Reader(None, False)):
        with pytest.raises(NotFound):
            ours.read("one", reader)
    assert ours.peer.asked == []
    ours.read("one")
    with pytest.raises(NotFound):
        ours.read("one", Reader("192.0.2.7", False))


def test_cache_is_bounded_and_keeps_what_is_read(ours: Ours) -> None:
    for number in range(10):
        ours.peer.tell[NEW + str(number)] = in_parts(bytes([number]) * 600)
        ours.read(str(number))
        ours.store._database.execute("UPDATE media SET read_ts = read_ts - 1000")
    assert ours.store.bytes_of_others() <= 2500
    assert ours.kept == 4
    asked = len(ours.peer.asked)
    assert ours.read("9") == b"\x09" * 600
    assert len(ours.peer.asked) == asked
    assert ours.read("0") == b"\x00" * 600  # fetched once more
    assert len(ours.peer.asked) == asked + 1


def test_no_server_takes_more_than_its_share(database: Database, tmp_path: Path) -> None:
    ours = make_ours(database, tmp_path, share=1000)
    for number in range(4):
        ours.peer.tell[NEW + str(number)] = in_parts(bytes([number]) * 400)
        ours.read(str(number))
        ours.store._database.execute("UPDATE media SET read_ts = read_ts - 1000")
    ours.care.make_room()
    assert [usage.size for usage in ours.store.usage_by_server()] == [800]
    assert ours.store.find(MediaUri(PEER, "3")) is not None


def test_lost_file_is_fetched_again(ours: Ours) -> None:
    ours.peer.tell[NEW + "one"] = in_parts(b"hello")
    ours.read("one")
    (path,) = [path for path in ours.directory.rglob("*") if path.is_file()]
    path.unlink()
    assert ours.read("one") == b"hello"


def test_quarantined_content_stays_away_under_every_name(ours: Ours) -> None:
    ours.peer.tell[NEW + "one"] = ours.peer.tell[NEW + "two"] = in_parts(b"awful")
    ours.read("one")
    ours.care.quarantine(MediaUri(PEER, "one"), "the operator")
    for media_id in ("one", "two"):
        with pytest.raises(NotFound):
            ours.read(media_id)
    ours.care.end_quarantine(MediaUri(PEER, "one"))
    assert ours.read("two") == b"awful"
