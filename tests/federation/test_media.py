"""Media between servers over TLS: between two of ours, and with a real Synapse both ways."""

from __future__ import annotations

import io
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.federation.authority import Authority
from tests.federation.homeserver import Homeserver, Person, architex
from tests.federation.synapse import Synapse, is_installed
from tests.media_files import picture

pytestmark = pytest.mark.slow

PAIRS = [("ours", "theirs"), ("ours", "synapse"), ("synapse", "ours")]


class SynapseWithMedia(Synapse):
    """A Synapse whose listener serves media, too."""

    def _config(
        self, port: int, authority: Authority, certificate: Any, log_config: Path
    ) -> dict[str, Any]:
        config = super()._config(port, authority, certificate, log_config)
        config["listeners"][0]["resources"][0]["names"] = ["client", "federation", "media"]
        return config


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Homeserver]]:
    """Two of ours and a Synapse."""
    directory = tmp_path_factory.mktemp("media")
    authority = Authority(directory)
    started: dict[str, Homeserver] = {}
    with (
        architex(directory, authority, web_workers=1) as ours,
        architex(directory, authority, web_workers=1) as theirs,
    ):
        started = {"ours": ours, "theirs": theirs}
        if not is_installed():
            yield started
            return
        synapse = SynapseWithMedia(directory, authority)
        starting = threading.Thread(target=synapse.start)
        starting.start()
        starting.join()
        try:
            yield {**started, "synapse": synapse}
        finally:
            synapse.stop()


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest, servers: dict[str, Homeserver]) -> tuple[Person, Person]:
    """Who uploads, and who reads on another server."""
    uploader, reader = request.param
    if not {uploader, reader} <= servers.keys():
        pytest.skip("matrix-synapse is not installed")
    return servers[uploader].register(), servers[reader].register()


def ask(
    person: Person, method: str, path: str, body: bytes | None = None, kind: str = ""
) -> tuple[int, dict[str, str], bytes]:
    headers = {"Authorization": f"Bearer {person.token}"}
    if kind:
        headers["Content-Type"] = kind
    request = urllib.request.Request(  # noqa: S310 - our own https URL
        person.server.url + path, data=body, headers=headers, method=method
    )
    try:
        with urllib.request.urlopen(  # noqa: S310 - as above
            request, timeout=60, context=person.server._tls
        ) as answer:
            return answer.status, _lower(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _lower(error.headers), error.read()


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def upload(person: Person, body: bytes, kind: str, name: str = "") -> str:
    query = f"?filename={name}" if name else ""
    status, _, told = ask(person, "POST", "/_matrix/media/v3/upload" + query, body, kind)
    assert status == 200, told
    return told.decode().partition("mxc://")[2].partition('"')[0]


def download(person: Person, media: str) -> tuple[int, dict[str, str], bytes]:
    return ask(person, "GET", f"/_matrix/client/v1/media/download/{media}")


def test_media_is_read_on_another_server(pair: tuple[Person, Person]) -> None:
    uploader, reader = pair
    content = os.urandom(3_000_000)
    media = upload(uploader, content, "video/mp4", "film.mp4")
    for _ in range(2):
        status, headers, body = download(reader, media)
        assert (status, body) == (200, content)
        assert headers["content-type"] == "video/mp4"
        assert "film.mp4" in headers["content-disposition"]


def test_thumbnail_is_read_on_another_server(pair: tuple[Person, Person]) -> None:
    uploader, reader = pair
    media = upload(uploader, picture(1000, 500), "image/png")
    path = f"/_matrix/client/v1/media/thumbnail/{media}?width=320&height=240&method=scale"
    status, _, body = ask(reader, "GET", path)
    assert status == 200, body
    assert Image.open(io.BytesIO(body)).size == (320, 160)


def test_what_is_not_there_is_not_found_from_elsewhere(pair: tuple[Person, Person]) -> None:
    uploader, reader = pair
    status, _, body = download(reader, f"{uploader.server.name}/nothinghere")
    assert (status, b"M_NOT_FOUND" in body) == (404, True)


def test_empty_file_is_read_on_another_server(pair: tuple[Person, Person]) -> None:
    uploader, reader = pair
    if "synapse" in type(uploader.server).__name__.lower():
        pytest.skip("Synapse takes no empty files")
    status, _, body = download(reader, upload(uploader, b"", "text/plain"))
    assert (status, body) == (200, b"")


def test_unsigned_requests_get_nothing(servers: dict[str, Homeserver]) -> None:
    person = servers["ours"].register()
    media = upload(person, b"x", "text/plain")
    media_id = media.rpartition("/")[2]
    for path in ("download/" + media_id, f"thumbnail/{media_id}?width=1&height=1"):
        status, _, body = ask(person, "GET", "/_matrix/federation/v1/media/" + path)
        assert status == 401, body
