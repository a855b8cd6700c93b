"""Two people with ordinary clients show each other pictures: matrix-nio and mautrix."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path

import nio  # type: ignore[import-untyped]  # it has no types
import pytest
from mautrix.errors import MatrixResponseError
from mautrix.types import ContentURI

from tests.clients.people import MautrixPerson, NioPerson, two_people
from tests.media_files import open_picture, picture
from tests.server import RunningServer, start_server

pytestmark = [
    pytest.mark.slow,
    # The libraries' own affairs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_clients_show_each_other_pictures(tmp_path: Path) -> None:
    with start_server(tmp_path, web_workers=2) as server:
        asyncio.run(_show(server))


async def _show(server: RunningServer) -> None:
    async with two_people(server.url) as (alice, bob):
        assert isinstance(alice, NioPerson)
        assert isinstance(bob, MautrixPerson)
        ours, theirs = alice._client, bob._client
        content = picture(900, 600, "JPEG")

        uploaded, _ = await ours.upload(
            lambda *_: io.BytesIO(content), "image/jpeg", "cat.jpg", filesize=len(content)
        )
        assert isinstance(uploaded, nio.UploadResponse), uploaded
        assert await theirs.download_media(ContentURI(uploaded.content_uri)) == content
        small = await theirs.download_thumbnail(
            ContentURI(uploaded.content_uri), width=320, height=240
        )
        assert open_picture(small).size == (320, 213)

        # Created first, uploaded while the other waits for it.
        created = await theirs.create_mxc()
        waiting = asyncio.create_task(ours.download(mxc=str(created.content_uri)))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        # The library looks for a content_uri in the answer, which is {} by the specification.
        with contextlib.suppress(MatrixResponseError):
            await theirs.upload_media(content, "image/jpeg", "dog.jpg", mxc=created.content_uri)
        downloaded = await waiting
        assert isinstance(downloaded, nio.MemoryDownloadResponse), downloaded
        assert downloaded.body == content
        assert downloaded.filename == "dog.jpg"

        server_name, _, media_id = uploaded.content_uri.removeprefix("mxc://").partition("/")
        thumbnail = await ours.thumbnail(server_name, media_id, 32, 32, nio.ResizingMethod.crop)
        assert isinstance(thumbnail, nio.ThumbnailResponse), thumbnail
        assert open_picture(thumbnail.body).size == (32, 32)
        assert (await theirs.get_media_repo_config()).upload_size == 50 * 1024 * 1024
