"""Media: URIs that cannot become paths, names and types that are safe to tell, few thumbnails.

Spec: https://spec.matrix.org/v1.19/client-server-api/#content-repository
"""

from __future__ import annotations

import io
import re
from email.message import Message
from email.utils import collapse_rfc2231_value

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from architex.domain.errors import InvalidParam, NotFound
from architex.domain.media import (
    INLINE_TYPES,
    MAX_CONTENT_TYPE_LENGTH,
    MAX_FILE_NAME_LENGTH,
    PREMADE_SIZES,
    UNKNOWN_TYPE,
    MediaUri,
    Method,
    ThumbnailSize,
    check_media_uri,
    choose_thumbnail_size,
    clean_content_type,
    clean_file_name,
    content_disposition,
    is_shown_inline,
    parse_media_uri,
    sniff_picture,
)

texts = st.text(st.characters(), max_size=40)

# ---- URIs


@pytest.mark.parametrize(
    "uri",
    ["mxc://a.example/abc", "mxc://a.example:8448/A_b-9", "mxc://[::1]/x", "mxc://1.2.3.4:80/x"],
)
def test_media_uri_is_read_as_it_is_written(uri: str) -> None:
    parsed = parse_media_uri(uri)
    assert str(parsed) == uri
    assert check_media_uri(parsed.server_name, parsed.media_id) == parsed


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "mxc://",
        "mxc://a.example",
        "mxc://a.example/",
        "mxc:///abc",
        "mxc:/a.example/abc",
        "http://a.example/abc",
        "mxc://a.example/a/b",
        "mxc://a.example/../abc",
        "mxc://a.example/a.b",
        "mxc://a.example/%2e%2e",
        "mxc://a.example/abc?x",
        "mxc://a.example/abc\n",
        "mxc://a b/abc",
        "mxc://a.example/" + "a" * 256,
        "mxc://a.example/é",
    ],
)
def test_what_is_no_media_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidParam):
        parse_media_uri(uri)


@given(texts, texts)
def test_segments_of_a_path_never_lead_out_of_it(server_name: str, media_id: str) -> None:
    try:
        uri = check_media_uri(server_name, media_id)
    except NotFound:
        return
    assert re.fullmatch(r"[A-Za-z0-9_-]+", uri.media_id)
    assert not {"/", "\\", "\0"} & set(uri.server_name)


@pytest.mark.parametrize(
    ("server_name", "media_id"),
    [("a.example", ".."), ("a.example", ""), ("", "abc"), ("a/b", "abc")],
)
def test_media_of_no_possible_name_is_not_found(server_name: str, media_id: str) -> None:
    with pytest.raises(NotFound):
        check_media_uri(server_name, media_id)
    assert check_media_uri("a.example", "abc") == MediaUri("a.example", "abc")


# ---- content types


@pytest.mark.parametrize(
    ("given_type", "kept"),
    [
        ("image/png", "image/png"),
        (" IMAGE/PNG ", "image/png"),
        ("text/plain; charset=UTF-8", "text/plain; charset=UTF-8"),
        ("text/plain ;charset=UTF-8", "text/plain;charset=UTF-8"),
        ("application/vnd.oasis.opendocument+xml", "application/vnd.oasis.opendocument+xml"),
        (None, UNKNOWN_TYPE),
        ("", UNKNOWN_TYPE),
        ("png", UNKNOWN_TYPE),
        ("image/", UNKNOWN_TYPE),
        ("/png", UNKNOWN_TYPE),
        ("image/png/gif", UNKNOWN_TYPE),
        ("image/png, text/html", UNKNOWN_TYPE),
        ("image/png\r\nSet-Cookie: a=b", UNKNOWN_TYPE),
        ("text/plain; a=\x00", UNKNOWN_TYPE),
        ("text/plain; a=é", UNKNOWN_TYPE),
        ("text/plain; a=" + "x" * MAX_CONTENT_TYPE_LENGTH, UNKNOWN_TYPE),
    ],
)
def test_content_type_is_kept_when_it_is_one(given_type: str | None, kept: str) -> None:
    assert clean_content_type(given_type) == kept


@given(st.text(st.characters(max_codepoint=0x17F), max_size=40))
def test_kept_content_type_can_stand_in_a_header(given_type: str) -> None:
    kept = clean_content_type(given_type)
    assert kept.isascii()
    assert kept.isprintable()
    assert clean_content_type(kept) == kept


# https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content
@pytest.mark.parametrize(
    "content_type",
    [
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    ],
)
def test_types_that_the_spec_lists_are_shown_in_place(content_type: str) -> None:
    assert is_shown_inline(content_type)
    assert is_shown_inline(f"{content_type.upper()} ; charset=utf-8")
    assert content_type in INLINE_TYPES


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "application/pdf", ""],
)
def test_what_could_run_scripts_is_not_shown_in_place(content_type: str) -> None:
    assert not is_shown_inline(content_type)
    assert content_disposition(content_type, None) == "attachment"
    assert len(INLINE_TYPES) == 26


# ---- file names


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        (None, None),
        ("", None),
        (" \t\r\n", None),
        ("\u202e", None),
        ("cat.png", "cat.png"),
        ("  cat.png ", "cat.png"),
        ("a\r\nSet-Cookie: b", "aSet-Cookie: b"),
        # A name that pretends to end otherwise.
        ("cat\u202egnp.exe", "catgnp.exe"),
        ("cat\ud800.png", "cat.png"),
        ("日本.png", "日本.png"),
        ("x" * 300, "x" * MAX_FILE_NAME_LENGTH),
    ],
)
def test_file_name_is_kept_without_what_deceives(given_name: str | None, kept: str | None) -> None:
    assert clean_file_name(given_name) == kept


@pytest.mark.parametrize(
    ("file_name", "disposition"),
    [
        (None, "inline"),
        ("cat.png", 'inline; filename="cat.png"'),
        ("my cat (1).png", 'inline; filename="my cat (1).png"'),
        ('a"b.png', "inline; filename*=utf-8''a%22b.png"),
        ("a\\b.png", "inline; filename*=utf-8''a%5Cb.png"),
        ("a/b.png", "inline; filename*=utf-8''a%2Fb.png"),
        ("100%.png", "inline; filename*=utf-8''100%25.png"),
        ("é.png", "inline; filename*=utf-8''%C3%A9.png"),
    ],
)
def test_file_name_stands_in_the_content_disposition(
    file_name: str | None, disposition: str
) -> None:
    assert content_disposition("image/png", file_name) == disposition


@given(texts)
def test_file_name_comes_out_of_the_header_as_it_went_in(text: str) -> None:
    name = clean_file_name(text)
    header = content_disposition("image/svg+xml", name)
    assert header.isascii()
    assert header.isprintable()
    if name is None:
        assert header == "attachment"
        return
    message = Message()
    message["Content-Disposition"] = header
    told = message.get_param("filename", header="Content-Disposition")
    assert isinstance(told, str | tuple)
    assert collapse_rfc2231_value(told) == name


# ---- pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "AVIF"])
def test_picture_is_known_by_its_first_bytes(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 2)).save(file, kind)
    assert sniff_picture(file.getvalue()[:32]) == kind


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'>",
        b"BM\x00\x00",
        b"RIFF\x00\x00\x00\x00WAVE",
        b"\x00\x00\x00\x18ftypmp42",
        b"\x00\x00\x00\x18ftyp",
        b"GIF88a",
        b"%PDF-1.7",
    ],
)
def test_nothing_else_is_taken_for_a_picture(head: bytes) -> None:
    assert sniff_picture(head) is None


# ---- thumbnails


def test_thumbnails_of_the_spec_are_made_beforehand() -> None:
    # https://spec.matrix.org/v1.19/client-server-api/#thumbnails
    assert {(size.width, size.height, size.method) for size in PREMADE_SIZES} == {
        (32, 32, "crop"),
        (96, 96, "crop"),
        (320, 240, "scale"),
        (640, 480, "scale"),
        (800, 600, "scale"),
    }
    for size in PREMADE_SIZES:
        assert choose_thumbnail_size(size.width, size.height, size.method) == size


@pytest.mark.parametrize(
    ("width", "height", "method", "chosen"),
    [
        (1, 1, "scale", (320, 240)),
        (321, 1, "scale", (640, 480)),
        (1, 241, "scale", (640, 480)),
        (1600, 1200, "scale", (1600, 1200)),
        (1601, 1, "scale", None),
        (1, 1, "crop", (32, 32)),
        (33, 1, "crop", (96, 32)),
        (1, 1600, "crop", (32, 1600)),
        (1601, 1, "crop", None),
        (1, 1601, "crop", None),
    ],
)
def test_next_larger_thumbnail_is_given(
    width: int, height: int, method: Method, chosen: tuple[int, int] | None
) -> None:
    size = choose_thumbnail_size(width, height, method)
    assert (None if size is None else (size.width, size.height)) == chosen


@given(
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.sampled_from(["scale", "crop"]),
    st.booleans(),
)
def test_thumbnail_is_never_smaller_than_asked_for(
    width: int, height: int, method: Method, animated: bool
) -> None:
    size = choose_thumbnail_size(width, height, method, animated=animated)
    if size is None:
        assert max(width, height) > 1200
        return
    assert size.width >= width
    assert size.height >= height
    assert (size.method, size.animated) == (method, animated)
    # Asking for what is made gives the same.
    again = choose_thumbnail_size(size.width, size.height, method, animated=animated)
    assert again == size == ThumbnailSize(size.width, size.height, method, animated)
