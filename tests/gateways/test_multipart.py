"""Bodies of several parts, however they arrive, and what is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from architex.gateways.errors import RemoteUnintelligible
from architex.gateways.multipart import MAX_HEADER_BYTES, PartsReader, find_boundary

BODY = (
    b"--XX\r\nContent-Type: application/json\r\n\r\n{}\r\n"
    b"--XX\r\nContent-Type: image/png\r\nContent-Disposition: inline\r\n\r\n"
    b"some \r\n--X bytes\r\n\r\n--XX--\r\n"
)


def in_pieces(body: bytes, size: int) -> Callable[[], bytes]:
    """Reads a body so many bytes at a time."""
    pieces = iter([body[at : at + size] for at in range(0, len(body), size)])
    return lambda: next(pieces, b"")


def read_all(body: bytes, size: int = 7) -> list[tuple[str | None, bytes]]:
    reader = PartsReader(in_pieces(body, size), "XX", "peer.example")
    found = []
    while (headers := reader.next_part()) is not None:
        found.append((headers.get("Content-Type"), b"".join(reader.pieces())))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 1000])
def test_parts_are_the_same_however_they_arrive(size: int) -> None:
    assert read_all(BODY, size) == [
        ("application/json", b"{}"),
        ("image/png", b"some \r\n--X bytes\r\n"),
    ]


def test_what_stands_before_the_first_part_is_skipped() -> None:
    assert len(read_all(b"This is a message in parts.\r\n" + BODY)) == 2


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_empty_part_without_headers_is_a_part(size: int) -> None:
    assert read_all(b"--XX\r\n\r\n\r\n--XX\r\nA: b\r\n\r\n--XX--", size) == [(None, b"")] * 2


def test_part_that_is_not_read_is_skipped() -> None:
    reader = PartsReader(in_pieces(BODY, 9), "XX", "peer.example")
    assert reader.next_part() is not None
    headers = reader.next_part()
    assert headers is not None
    assert headers["Content-Type"] == "image/png"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--XX",
        b"--XX\r\n",
        b"nothing",
        BODY[:-30],
        b"--XX\r\nA: b",
        BODY.replace(b"XX", b"Y"),
    ],
)
def test_parts_that_do_not_end_are_refused(body: bytes) -> None:
    with pytest.raises(RemoteUnintelligible):
        read_all(body)


def test_headers_and_preamble_are_bounded() -> None:
    with pytest.raises(RemoteUnintelligible):
        read_all(b"--XX\r\nA: " + b"b" * (2 * MAX_HEADER_BYTES) + b"\r\n\r\n", 1000)
    with pytest.raises(RemoteUnintelligible):
        read_all(b"y" * 200_000 + BODY, 1000)


def test_endless_part_is_held_in_pieces() -> None:
    def endless() -> Iterator[bytes]:
        yield b"--XX\r\n\r\n"
        while True:
            yield b"x" * 1000

    source = endless()
    reader = PartsReader(lambda: next(source), "XX", "peer.example")
    reader.next_part()
    pieces = reader.pieces()
    for _ in range(2000):
        assert len(next(pieces)) <= 1008


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/mixed; boundary=abc", "abc"),
        ('Multipart/Mixed;boundary="a b"', "a b"),
        ("multipart/mixed", None),
        ("multipart/mixed; boundary=", None),
        ("multipart/mixed; boundary=" + "x" * 300, None),
        ("image/png; boundary=abc", None),
        ("", None),
    ],
)
def test_boundary_is_what_the_type_says(content_type: str, boundary: str | None) -> None:
    assert find_boundary(content_type) == boundary
