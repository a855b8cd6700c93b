"""Uploading and downloading media."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import falcon.testing
import pytest

from architex.gateways.media_files import LocalIncomingFile
from architex.settings import MediaSettings, RateLimitSettings
from tests.api.client import SERVER_NAME, Server, User, settings_for, start_server, stop_server
from tests.media_files import AUTHED, OLD, ask, download, picture, thumbnail, upload
from tests.waiting import eventually


def refused(result: falcon.testing.Result, status: int, errcode: str) -> None:
    assert (result.status_code, result.json["errcode"]) == (status, errcode), result.text


def test_what_was_uploaded_comes_back(alice: User, bob: User) -> None:
    media = upload(alice, b"some text", "text/plain", filename="notes.txt")
    assert media.startswith(f"{SERVER_NAME}/")
    result = download(bob, media)
    assert (result.status_code, result.content) == (200, b"some text")
    assert result.headers["content-type"] == "text/plain"
    assert result.headers["content-disposition"] == 'inline; filename="notes.txt"'
    assert result.headers["content-length"] == "9"


def test_empty_file_is_a_file(alice: User) -> None:
    media = upload(alice, b"", "text/plain")
    result = download(alice, media)
    assert (result.status_code, result.content) == (200, b"")


def test_every_answer_forbids_browsers_to_run_it(alice: User) -> None:
    media = upload(alice, b"<script>alert(1)</script>", "Text/HTML")
    for result in (download(alice, media), download(alice, media, "/innocent.png")):
        assert "sandbox" in result.headers["content-security-policy"]
        assert result.headers["x-content-type-options"] == "nosniff"
        assert result.headers["cross-origin-resource-policy"] == "cross-origin"
        assert result.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("content_type", "disposition"),
    [
        ("image/png", "inline"),
        ("IMAGE/PNG", "inline"),
        ("image/png; charset=utf-8", "inline"),
        ("image/svg+xml", "attachment"),
        ("Image/SVG+XML", "attachment"),
        ("text/html", "attachment"),
        ("TEXT/Html;charset=x", "attachment"),
        ("application/xhtml+xml", "attachment"),
        ("application/pdf", "attachment"),
        ("text/plain, text/html", "attachment"),
        ("image/png\ttext/html", "attachment"),
        ("nothing", "attachment"),
        (None, "attachment"),
    ],
)
def test_only_harmless_types_are_shown_in_place(
    alice: User, content_type: str | None, disposition: str
) -> None:
    result = download(alice, upload(alice, b"x", content_type))
    assert result.headers["content-disposition"] == disposition


def test_type_that_is_none_is_told_as_bytes(alice: User) -> None:
    result = download(alice, upload(alice, b"x", "text/plain, text/html"))
    assert result.headers["content-type"] == "application/octet-stream"


def test_file_names_are_told_and_never_used(alice: User) -> None:
    media = upload(alice, b"x", "text/plain", filename="../../etc/päss\r\nX-Evil: 1\x00wd")
    header = download(alice, media).headers["content-disposition"]
    assert header == "inline; filename*=utf-8''..%2F..%2Fetc%2Fp%C3%A4ssX-Evil%3A%201wd"
    named = download(alice, media, "/other%20name.txt")
    assert named.headers["content-disposition"] == 'inline; filename="other name.txt"'
    quoted = download(alice, media, "/a%22b.txt")
    assert quoted.headers["content-disposition"] == "inline; filename*=utf-8''a%22b.txt"


@pytest.mark.parametrize(
    "media",
    [
        f"{SERVER_NAME}/..%2F..%2Fetc%2Fpasswd",
        f"{SERVER_NAME}/%2e%2e",
        f"{SERVER_NAME}/a.b",
        "..%2F..%2Fetc/passwd",
        "%2Fetc/passwd",
        f"{SERVER_NAME}/caf%C3%A9",
        f"{SERVER_NAME}/" + "a" * 300,
        "not a server/abc",
    ],
)
def test_no_path_leads_out_of_the_media(alice: User, media: str) -> None:
    refused(download(alice, media), 404, "M_NOT_FOUND")
    refused(thumbnail(alice, media, width=10, height=10), 404, "M_NOT_FOUND")


def test_media_that_nobody_uploaded_is_not_found(alice: User) -> None:
    refused(download(alice, f"{SERVER_NAME}/nothing"), 404, "M_NOT_FOUND")


def test_reading_needs_an_access_token(alice: User, server: Server) -> None:
    media = upload(alice, b"x", "text/plain")
    refused(ask(server, "GET", f"{AUTHED}/download/{media}"), 401, "M_MISSING_TOKEN")
    refused(
        ask(server, "GET", f"{AUTHED}/thumbnail/{media}?width=1&height=1"), 401, "M_MISSING_TOKEN"
    )
    refused(ask(server, "GET", f"{AUTHED}/config"), 401, "M_MISSING_TOKEN")
    refused(ask(server, "POST", f"{OLD}/upload", body=b"x"), 401, "M_MISSING_TOKEN")


def test_old_endpoints_show_nothing_uploaded_since_they_were_frozen(
    alice: User, server: Server
) -> None:
    media = upload(alice, picture(), "image/png")
    refused(ask(server, "GET", f"{OLD}/download/{media}"), 404, "M_NOT_FOUND")
    refused(ask(server, "GET", f"{OLD}/download/{media}/x.png"), 404, "M_NOT_FOUND")
    small = f"{OLD}/thumbnail/{media}"
    refused(ask(server, "GET", small, params={"width": 9, "height": 9}), 404, "M_NOT_FOUND")


def test_config_tells_the_largest_upload(alice: User) -> None:
    for path in (f"{AUTHED}/config", f"{OLD}/config"):
        result = ask(alice.server, "GET", path, token=alice.token)
        assert result.json == {"m.upload.size": MediaSettings().max_upload_bytes}


# ---- parts


@pytest.mark.parametrize(
    ("asked", "told", "content"),
    [
        ("bytes=0-3", "bytes 0-3/10", b"0123"),
        ("bytes=7-", "bytes 7-9/10", b"789"),
        ("bytes=-3", "bytes 7-9/10", b"789"),
        ("bytes=2-999", "bytes 2-9/10", b"23456789"),
    ],
)
def test_parts_are_served(alice: User, asked: str, told: str, content: bytes) -> None:
    media = upload(alice, b"0123456789", "video/mp4")
    result = download(alice, media, headers={"Range": asked})
    assert (result.status_code, result.content) == (206, content)
    assert result.headers["content-range"] == told
    assert result.headers["content-length"] == str(len(content))


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_parts_beyond_the_end_are_refused(alice: User, asked: str) -> None:
    media = upload(alice, b"0123456789", "video/mp4")
    result = download(alice, media, headers={"Range": asked})
    assert (result.status_code, result.headers["content-range"]) == (416, "bytes */10")


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "bytes=0-1,4-5", "lines=1-2", "x"])
def test_what_is_no_single_part_is_served_whole(alice: User, asked: str) -> None:
    media = upload(alice, b"0123456789", "video/mp4")
    result = download(alice, media, headers={"Range": asked})
    assert (result.status_code, result.content) == (200, b"0123456789")


def test_what_a_client_has_is_not_sent_again(alice: User) -> None:
    media = upload(alice, b"0123456789", "video/mp4")
    etag = download(alice, media).headers["etag"]
    result = download(alice, media, headers={"If-None-Match": etag})
    assert (result.status_code, result.content) == (304, b"")


# ---- created first


def create(user: User) -> str:
    result = ask(user.server, "POST", "/_matrix/media/v1/create", token=user.token)
    assert result.status_code == 200
    assert result.json["unused_expires_at"] > user.server.core.clock.now_ms()
    uri: str = result.json["content_uri"]
    return uri.removeprefix("mxc://")


def fill(user: User, media: str, body: bytes) -> falcon.testing.Result:
    headers = {"Content-Type": "text/plain"}
    path = f"{OLD}/upload/{media}"
    return ask(user.server, "PUT", path, token=user.token, headers=headers, body=body)


def test_media_may_be_created_first_and_uploaded_later(alice: User, bob: User) -> None:
    media = create(alice)
    refused(download(bob, media, timeout_ms=0), 504, "M_NOT_YET_UPLOADED")
    assert fill(alice, media, b"at last").json == {}
    assert download(bob, media).content == b"at last"


def test_media_is_uploaded_once_and_by_its_creator(alice: User, bob: User) -> None:
    media = create(alice)
    refused(fill(bob, media, b"mine"), 403, "M_FORBIDDEN")
    assert fill(alice, media, b"one").status_code == 200
    refused(fill(alice, media, b"two"), 409, "M_CANNOT_OVERWRITE_MEDIA")
    assert download(alice, media).content == b"one"


def test_media_that_was_not_created_cannot_be_uploaded(alice: User) -> None:
    refused(fill(alice, f"{SERVER_NAME}/madeup", b"x"), 404, "M_NOT_FOUND")
    refused(fill(alice, "other.example/madeup", b"x"), 404, "M_NOT_FOUND")


def test_media_created_long_ago_cannot_be_uploaded(alice: User) -> None:
    media = create(alice)
    alice.server.core.database.execute(
        "UPDATE media SET expires_ts = 1 WHERE media_id = %s", (media.partition("/")[2],)
    )
    refused(fill(alice, media, b"x"), 404, "M_NOT_FOUND")
    refused(download(alice, media), 404, "M_NOT_FOUND")


def test_who_creates_and_never_uploads_is_stopped(alice: User) -> None:
    for _ in range(50):
        create(alice)
    result = ask(alice.server, "POST", "/_matrix/media/v1/create", token=alice.token)
    refused(result, 429, "M_LIMIT_EXCEEDED")


# ---- bounds


@pytest.fixture
def small(database_url: str, tmp_path: Path) -> User:
    """A user of a server that takes little."""
    settings = settings_for(
        tmp_path,
        rate_limits=RateLimitSettings(enabled=False),
        media=MediaSettings(
            max_upload_bytes=1000, max_bytes_per_user=2500, unauthenticated_downloads=True
        ),
    )
    return start_server(database_url, settings).register()


def put(user: User, body: bytes, **headers: str) -> falcon.testing.Result:
    return ask(user.server, "POST", OLD + "/upload", token=user.token, headers=headers, body=body)


def test_what_is_too_large_is_refused(small: User, tmp_path: Path) -> None:
    try:
        refused(put(small, b"x" * 1001), 413, "M_TOO_LARGE")
        assert put(small, b"x" * 1000).status_code == 200
        kept = [path for path in (tmp_path / "media").rglob("*") if path.is_file()]
        assert len(kept) == 1
        assert kept[0].name == hashlib.sha256(b"x" * 1000).hexdigest()
    finally:
        stop_server(small.server)


def test_who_has_uploaded_enough_uploads_no_more(small: User) -> None:
    try:
        assert put(small, b"x" * 1000).status_code == 200
        assert put(small, b"y" * 1000).status_code == 200
        refused(put(small, b"z" * 1000), 403, "M_FORBIDDEN")
        assert put(small, b"z" * 500).status_code == 200
    finally:
        stop_server(small.server)


def test_before_the_freeze_old_endpoints_need_no_token(small: User) -> None:
    try:
        media = upload(small, b"open", "text/plain")
        assert ask(small.server, "GET", f"{OLD}/download/{media}").content == b"open"
        refused(ask(small.server, "GET", f"{OLD}/download/{media}x"), 404, "M_NOT_FOUND")
    finally:
        stop_server(small.server)


def test_the_same_content_is_kept_once(alice: User, bob: User) -> None:
    one, two = upload(alice, b"twice the same"), upload(bob, b"twice the same")
    assert one != two
    count = alice.server.core.database.fetch_one(
        "SELECT count(*) FROM media_files WHERE sha256 = %s",
        (hashlib.sha256(b"twice the same").digest(),),
    )
    assert count == (1,)
    assert download(alice, two).content == b"twice the same"


# ---- thumbnails


def test_full_disk_is_our_failure_and_leaves_nothing(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: LocalIncomingFile, piece: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalIncomingFile, "write", full)
    result = ask(alice.server, "POST", OLD + "/upload", token=alice.token, body=b"x" * 100)
    refused(result, 500, "M_UNKNOWN")


def test_usual_thumbnails_are_made_before_anybody_asks(alice: User) -> None:
    media = upload(alice, picture(1000, 1000))
    database = alice.server.core.database

    def count() -> int:
        row = database.fetch_one(
            "SELECT count(*) FROM media_thumbnails t JOIN media m"
            " ON m.sha256 = t.source_sha256 WHERE m.media_id = %s",
            (media.partition("/")[2],),
        )
        return 0 if row is None else int(row[0])

    eventually(lambda: count() == 5)
