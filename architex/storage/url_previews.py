"""What was said about web pages lately."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from architex.storage.pool import Database


class UrlPreviewStore:
    """The url_previews table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, url: str, now_ms: int) -> dict[str, Any] | None:
        """The preview of a URL; None when there is none, or an old one."""
        row = self._database.fetch_one(
            "SELECT preview FROM url_previews WHERE url_sha256 = %s AND expires_ts > %s",
            (_hash(url), now_ms),
        )
        if row is None:
            return None
        preview: dict[str, Any] = orjson.loads(row[0])
        return preview

    def put(self, url: str, preview: dict[str, Any], expires_ts: int) -> None:
        """Keep a preview for a while."""
        self._database.execute(
            "INSERT INTO url_previews (url_sha256, preview, expires_ts) VALUES (%s, %s, %s)"
            " ON CONFLICT (url_sha256) DO UPDATE SET preview = excluded.preview,"
            " expires_ts = excluded.expires_ts",
            (_hash(url), orjson.dumps(preview).decode(), expires_ts),
        )

    def delete_expired(self, now_ms: int) -> int:
        """Forget old ones; how many."""
        return self._database.execute("DELETE FROM url_previews WHERE expires_ts <= %s", (now_ms,))


def _hash(url: str) -> bytes:
    return hashlib.sha256(url.encode()).digest()
