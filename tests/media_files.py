"""Pictures and other files for tests of media, and the raw requests that carry them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import falcon.testing
from PIL import Image

from tests.api.client import Server, User

AUTHED = "/_matrix/client/v1/media"
OLD = "/_matrix/media/v3"


def picture(width: int = 100, height: int = 80, kind: str = "PNG", **options: Any) -> bytes:
    """A picture of one colour, halfway transparent where the format can."""
    mode = "RGBA" if kind in ("PNG", "WEBP") else "RGB"
    data = io.BytesIO()
    Image.new(mode, (width, height), (200, 30, 60, 128)[: len(mode)]).save(data, kind, **options)
    return data.getvalue()


def moving_picture(width: int = 700, height: int = 500, kind: str = "GIF") -> bytes:
    """A picture of three frames."""
    frames = [Image.new("RGB", (width, height), (80 * n, 0, 255 - 80 * n)) for n in range(3)]
    data = io.BytesIO()
    frames[0].save(data, kind, save_all=True, append_images=frames[1:], duration=50, loop=0)
    return data.getvalue()


def open_picture(data: bytes) -> Image.Image:
    """A picture to look at."""
    return Image.open(io.BytesIO(data))


def ask(
    server: Server,
    method: str,
    path: str,
    *,
    token: str | None = None,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> falcon.testing.Result:
    """One request, with the answer as bytes."""
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    return falcon.testing.simulate_request(
        server.app,
        method,
        path,
        params=dict(params or {}),
        headers=sent,
        body=body,
        extras={"RAW_URI": path, "REMOTE_ADDR": "127.0.0.1"},
    )


def upload(user: User, body: bytes, content_type: str | None = "image/png", **params: str) -> str:
    """Upload; gives `server/id`."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    result = ask(
        user.server,
        "POST",
        OLD + "/upload",
        token=user.token,
        params=params,
        headers=headers,
        body=body,
    )
    assert result.status_code == 200, result.text
    uri: str = result.json["content_uri"]
    return uri.removeprefix("mxc://")


def download(
    user: User,
    media: str,
    suffix: str = "",
    headers: Mapping[str, str] | None = None,
    **params: Any,
) -> falcon.testing.Result:
    """Download `server/id`, with an access token."""
    path = f"{AUTHED}/download/{media}{suffix}"
    return ask(user.server, "GET", path, token=user.token, params=params, headers=headers)


def thumbnail(user: User, media: str, **params: Any) -> falcon.testing.Result:
    """A thumbnail of `server/id`, with an access token."""
    path = f"{AUTHED}/thumbnail/{media}"
    return ask(user.server, "GET", path, token=user.token, params=params)
