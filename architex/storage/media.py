"""Media: what mxc:// URIs lead to, which files hold it, which thumbnails there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from architex.domain.identifiers import ServerName, UserId
from architex.domain.media import MediaUri, Method, ThumbnailSize
from architex.storage.pool import Database, PgConnection

READ_PRECISION_MS: Final = 60 * 60 * 1000
"""How exactly it is remembered when media was last read: not every reading is a write."""

# A name of our own in the space of advisory locks with two keys.
_LOCKS: Final = 0x4D4544
_LOCKS_OF_USERS: Final = 0x4D4545


@dataclass(frozen=True, slots=True)
class Media:
    """A row of media.

    Attributes:
        sha256: of its content; None while it is created and not uploaded.
        size: bytes.
        uploader: a user of ours; None for media of other servers and of previews.
        created_ts: when it was uploaded here, or cached.
        read_ts: when it was last read, to READ_PRECISION_MS.
        expires_ts: it is gone after it; None for what stays.
        needs_token: it is not served at endpoints that need no access token.
        protected: neither retention nor quarantine touch it.
        quarantined_by: who quarantined its content; None when nobody did.
    """

    uri: MediaUri
    sha256: bytes | None
    size: int
    content_type: str
    file_name: str | None
    uploader: UserId | None
    is_local: bool
    created_ts: int
    read_ts: int
    expires_ts: int | None
    needs_token: bool
    protected: bool = False
    quarantined_by: str | None = None


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A row of media_thumbnails.

    Attributes:
        sha256: of the thumbnail; None when the source itself is small enough.
        size: bytes.
    """

    wanted: ThumbnailSize
    sha256: bytes | None
    size: int
    content_type: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What media of a server or a user takes.

    Attributes:
        owner: a server name, or a user ID of ours.
        size: bytes, without thumbnails; the same content counts for each who has it.
    """

    owner: str
    count: int
    size: int


_COLUMNS: Final = (
    "m.server_name, m.media_id, m.sha256, m.size, m.content_type, m.file_name, m.uploader,"
    " m.is_local, m.created_ts, m.read_ts, m.expires_ts, m.needs_token, m.protected,"
    " CASE WHEN m.protected THEN NULL ELSE f.quarantined_by END"
)
_SELECT: Final = f"SELECT {_COLUMNS} FROM media m LEFT JOIN media_files f USING (sha256)"  # noqa: S608 - constant columns
_BYTES_OF_USER: Final = "SELECT coalesce(sum(size), 0) FROM media WHERE uploader = %s"
_FIND: Final = f"{_SELECT} WHERE m.server_name = %s AND m.media_id = %s"

# What is there stays: of two that store media of the same URI, the first.
_INSERT: Final = """
INSERT INTO media (server_name, media_id, sha256, size, content_type, file_name, uploader,
    is_local, created_ts, read_ts, expires_ts, needs_token)
VALUES (%(server_name)s, %(media_id)s, %(sha256)s, %(size)s, %(content_type)s, %(file_name)s,
    %(uploader)s, %(is_local)s, %(created_ts)s, %(read_ts)s, %(expires_ts)s, %(needs_token)s)
ON CONFLICT (server_name, media_id) DO NOTHING"""
_FILL: Final = """
UPDATE media SET sha256 = %(sha256)s, size = %(size)s, content_type = %(content_type)s,
    file_name = %(file_name)s, created_ts = %(created_ts)s, read_ts = %(read_ts)s,
    expires_ts = NULL, needs_token = %(needs_token)s
WHERE server_name = %(server_name)s AND media_id = %(media_id)s AND sha256 IS NULL
    AND expires_ts > %(created_ts)s"""
_ADD_FILE: Final = (
    "INSERT INTO media_files (sha256, size) VALUES (%s, %s) ON CONFLICT (sha256) DO NOTHING"
)
_IS_REFERENCED: Final = """
SELECT EXISTS (SELECT 1 FROM media WHERE sha256 = %(sha256)s)
    OR EXISTS (SELECT 1 FROM media_thumbnails WHERE sha256 = %(sha256)s)"""
_ADD_THUMBNAIL: Final = """
INSERT INTO media_thumbnails (source_sha256, width, height, method, animated, sha256, size,
    content_type) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (source_sha256, width, height, method, animated) DO UPDATE SET
    sha256 = excluded.sha256, size = excluded.size, content_type = excluded.content_type"""


class QuotaExceeded(Exception):
    """The uploads of a user would take too much together. `used`: what they take already."""

    def __init__(self, used: int) -> None:
        super().__init__(used)
        self.used = used


class MediaStore:
    """The tables media, media_files and media_thumbnails.

    Rows and files change together: whoever puts a file into its place, or takes it away, does so
    while holding the lock of its hash, in the transaction that writes the rows.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- media

    def find(self, uri: MediaUri) -> Media | None:
        """The media of a URI; None when we have none."""
        row = self._database.fetch_one(_FIND, (uri.server_name, uri.media_id))
        return None if row is None else _as_media(row)

    def insert_pending(self, media: Media) -> None:
        """Note media that is to be uploaded later."""
        self._database.execute(_INSERT, _parameters(media))

    def count_pending(self, user_id: UserId, now_ms: int) -> int:
        """How many a user has created, and not uploaded, that have not expired."""
        row = self._database.fetch_one(
            "SELECT count(*) FROM media WHERE uploader = %s AND sha256 IS NULL"
            " AND expires_ts > %s",
            (user_id, now_ms),
        )
        return 0 if row is None else int(row[0])

    def insert(self, media: Media, put_file: Callable[[], None], *, most_of_user: int = 0) -> bool:
        """Add media with its content; False when there is media of that URI.

        Args:
            put_file: puts the file into its place; called under the lock of its hash.
            most_of_user: bytes that the uploads of its uploader may take together; 0: any.

        Raises:
            QuotaExceeded: they would take more.
        """
        return self._store(_INSERT, media, put_file, most_of_user)

    def fill(self, media: Media, put_file: Callable[[], None], *, most_of_user: int = 0) -> bool:
        """Add the content of media created before; False when it has some, or is gone.

        Raises:
            QuotaExceeded: as `insert`.
        """
        return self._store(_FILL, media, put_file, most_of_user)

    def _store(
        self, sql: str, media: Media, put_file: Callable[[], None], most_of_user: int
    ) -> bool:
        assert media.sha256 is not None  # noqa: S101 - what is stored has content
        with self._locked(media.sha256) as held:
            connection = held.connection
            if most_of_user and media.uploader is not None:
                _check_quota(connection, media.uploader, media.size, most_of_user)
            put_file()
            connection.execute(_ADD_FILE, (media.sha256, media.size))
            is_new = connection.execute(sql, _parameters(media)).rowcount == 1
        return is_new

    def note_read(self, media: Media, now_ms: int) -> None:
        """Remember that media was read just now."""
        if now_ms - media.read_ts >= READ_PRECISION_MS:
            self._database.execute(
                "UPDATE media SET read_ts = %s WHERE server_name = %s AND media_id = %s",
                (now_ms, media.uri.server_name, media.uri.media_id),
            )

    def delete(self, uri: MediaUri) -> bool:
        """Delete a row of media; its file is to be released after. False when there is none."""
        deleted = self._database.execute(
            "DELETE FROM media WHERE server_name = %s AND media_id = %s",
            (uri.server_name, uri.media_id),
        )
        return deleted == 1

    def set_protected(self, uri: MediaUri, protected: bool) -> bool:
        """Protect media, or do so no longer. False when there is none."""
        changed = self._database.execute(
            "UPDATE media SET protected = %s WHERE server_name = %s AND media_id = %s",
            (protected, uri.server_name, uri.media_id),
        )
        return changed == 1

    def set_quarantined(self, sha256: bytes, by: str | None, now_ms: int) -> None:
        """Quarantine content, wherever it appears and will appear; None ends it."""
        self._database.execute(
            "UPDATE media_files SET quarantined_by = %s, quarantined_ts = %s WHERE sha256 = %s",
            (by, None if by is None else now_ms, sha256),
        )

    # ---- lists

    def list_after(
        self,
        after: MediaUri | None,
        limit: int,
        *,
        server_name: ServerName | None = None,
        uploader: UserId | None = None,
    ) -> Sequence[Media]:
        """Media in the order of its URIs, after a given one."""
        rows = self._database.fetch_all(
            f"{_SELECT} WHERE (m.server_name, m.media_id) > (%s, %s)"
            " AND (%s::text IS NULL OR m.server_name = %s)"
            " AND (%s::text IS NULL OR m.uploader = %s)"
            " ORDER BY m.server_name, m.media_id LIMIT %s",
            (
                "" if after is None else after.server_name,
                "" if after is None else after.media_id,
                server_name,
                server_name,
                uploader,
                uploader,
                limit,
            ),
        )
        return [_as_media(row) for row in rows]

    def list_same_content(self, sha256: bytes) -> Sequence[Media]:
        """Media with the same content."""
        rows = self._database.fetch_all(f"{_SELECT} WHERE m.sha256 = %s", (sha256,))
        return [_as_media(row) for row in rows]

    def list_expired(self, now_ms: int, limit: int) -> Sequence[Media]:
        """Media whose time is over."""
        rows = self._database.fetch_all(
            f"{_SELECT} WHERE m.expires_ts <= %s ORDER BY m.expires_ts LIMIT %s", (now_ms, limit)
        )
        return [_as_media(row) for row in rows]

    def list_unread(
        self,
        before_ms: int,
        limit: int,
        *,
        is_local: bool,
        server_name: ServerName | None = None,
    ) -> Sequence[Media]:
        """Media that nobody has read since, longest first; without what is protected."""
        rows = self._database.fetch_all(
            f"{_SELECT} WHERE m.is_local = %s AND m.read_ts < %s AND NOT m.protected"
            " AND m.sha256 IS NOT NULL AND (%s::text IS NULL OR m.server_name = %s)"
            " ORDER BY m.read_ts LIMIT %s",
            (is_local, before_ms, server_name, server_name, limit),
        )
        return [_as_media(row) for row in rows]

    def bytes_of_user(self, user_id: UserId) -> int:
        """What a user's uploads take."""
        row = self._database.fetch_one(_BYTES_OF_USER, (user_id,))
        return 0 if row is None else int(row[0])

    def bytes_of_others(self) -> int:
        """What the cached media of other servers takes."""
        row = self._database.fetch_one(
            "SELECT coalesce(sum(size), 0) FROM media WHERE NOT is_local"
        )
        return 0 if row is None else int(row[0])

    def usage_by_server(self) -> Sequence[Usage]:
        """What the media of each server takes, most first."""
        rows = self._database.fetch_all(
            "SELECT server_name, count(*), sum(size) FROM media GROUP BY 1 ORDER BY 3 DESC, 1"
        )
        return [Usage(str(owner), int(count), int(size)) for owner, count, size in rows]

    def usage_by_user(self, limit: int) -> Sequence[Usage]:
        """What the uploads of our users take, most first."""
        rows = self._database.fetch_all(
            "SELECT uploader, count(*), sum(size) FROM media WHERE uploader IS NOT NULL"
            " GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT %s",
            (limit,),
        )
        return [Usage(str(owner), int(count), int(size)) for owner, count, size in rows]

    # ---- files

    def release(self, sha256: bytes, take_away: Callable[[], None]) -> bool:
        """Take a file away if nothing refers to it (any more); False when something does.

        Thumbnails of it are forgotten; their own files are to be released after, see
        `list_thumbnails`.

        Args:
            take_away: moves the file out of its place; called under the lock of its hash.
        """
        with self._locked(sha256) as held:
            if held.is_referenced:
                return False
            held.connection.execute(
                "DELETE FROM media_thumbnails WHERE source_sha256 = %s", (sha256,)
            )
            held.connection.execute(
                "DELETE FROM media_files WHERE sha256 = %s AND quarantined_by IS NULL", (sha256,)
            )
            take_away()
        return True

    def is_referenced(self, sha256: bytes) -> bool:
        """Whether any media or thumbnail has this content."""
        row = self._database.fetch_one(_IS_REFERENCED, {"sha256": sha256})
        return row is not None and bool(row[0])

    def list_unreferenced(self, limit: int) -> Sequence[bytes]:
        """Files that nothing refers to: what was removed last was interrupted."""
        rows = self._database.fetch_all(
            "SELECT sha256 FROM media_files f WHERE quarantined_by IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM media m WHERE m.sha256 = f.sha256)"
            " AND NOT EXISTS (SELECT 1 FROM media_thumbnails t WHERE t.sha256 = f.sha256)"
            " LIMIT %s",
            (limit,),
        )
        return [bytes(row[0]) for row in rows]

    def settle(self, sha256: bytes, settle_file: Callable[[bool], None]) -> None:
        """Let a file be put right, under the lock of its hash.

        Args:
            settle_file: told whether anything refers to the file.
        """
        with self._locked(sha256) as held:
            settle_file(held.is_referenced)

    # ---- thumbnails

    def find_thumbnail(self, source: bytes, wanted: ThumbnailSize) -> Thumbnail | None:
        """A thumbnail that was made; None when it was not."""
        row = self._database.fetch_one(
            "SELECT width, height, method, animated, sha256, size, content_type"
            " FROM media_thumbnails WHERE source_sha256 = %s AND width = %s AND height = %s"
            " AND method = %s AND animated = %s",
            (source, wanted.width, wanted.height, wanted.method, wanted.animated),
        )
        return None if row is None else _as_thumbnail(row)

    def list_thumbnails(self, source: bytes) -> Sequence[Thumbnail]:
        """All thumbnails of a file."""
        rows = self._database.fetch_all(
            "SELECT width, height, method, animated, sha256, size, content_type"
            " FROM media_thumbnails WHERE source_sha256 = %s",
            (source,),
        )
        return [_as_thumbnail(row) for row in rows]

    def insert_thumbnail(
        self, source: bytes, thumbnail: Thumbnail, put_file: Callable[[], None]
    ) -> bool:
        """Keep a thumbnail; False when its source is gone."""
        wanted = thumbnail.wanted
        with self._locked(source, *([thumbnail.sha256] if thumbnail.sha256 else [])) as held:
            connection = held.connection
            is_there = connection.execute(
                "SELECT 1 FROM media WHERE sha256 = %s LIMIT 1", (source,)
            ).fetchone()
            if is_there is None:
                return False
            if thumbnail.sha256 is not None:
                put_file()
                connection.execute(_ADD_FILE, (thumbnail.sha256, thumbnail.size))
            connection.execute(
                _ADD_THUMBNAIL,
                (
                    source,
                    wanted.width,
                    wanted.height,
                    wanted.method,
                    wanted.animated,
                    thumbnail.sha256,
                    thumbnail.size,
                    thumbnail.content_type,
                ),
            )
        return True

    def _locked(self, *hashes: bytes) -> _Held:
        return _Held(self._database, hashes)


class _Held:
    """A transaction that holds the locks of some hashes; nobody else changes their files."""

    connection: PgConnection

    def __init__(self, database: Database, hashes: Sequence[bytes]) -> None:
        self._transaction = database.transaction()
        self._hashes = hashes

    def __enter__(self) -> _Held:
        self.connection = self._transaction.__enter__()
        try:
            # In one order everywhere, so that no two wait for each other.
            for key in sorted({int.from_bytes(h[:4], signed=True) for h in self._hashes}):
                self.connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_LOCKS, key))
        except BaseException as error:
            self._transaction.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._transaction.__exit__(*error)

    @property
    def is_referenced(self) -> bool:
        """Whether anything refers to the (first) file."""
        row = self.connection.execute(_IS_REFERENCED, {"sha256": self._hashes[0]}).fetchone()
        return row is not None and bool(row[0])


def _check_quota(connection: PgConnection, user_id: UserId, size: int, most: int) -> None:
    """Refuse what would be too much of a user's, also when it comes from several sides at once."""
    # Until the end of the transaction: the next upload of the user then counts this one.
    key = int.from_bytes(sha256(user_id.encode()).digest()[:4], signed=True)
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_LOCKS_OF_USERS, key))
    row = connection.execute(_BYTES_OF_USER, (user_id,)).fetchone()
    used = 0 if row is None else int(row[0])
    if used + size > most:
        raise QuotaExceeded(used)


def _parameters(media: Media) -> dict[str, Any]:
    return {
        "server_name": media.uri.server_name,
        "media_id": media.uri.media_id,
        "sha256": media.sha256,
        "size": media.size,
        "content_type": media.content_type,
        "file_name": media.file_name,
        "uploader": media.uploader,
        "is_local": media.is_local,
        "created_ts": media.created_ts,
        "read_ts": media.read_ts,
        "expires_ts": media.expires_ts,
        "needs_token": media.needs_token,
    }


def _as_media(row: Sequence[Any]) -> Media:
    server_name, media_id, sha256, *rest = row
    return Media(MediaUri(server_name, media_id), None if sha256 is None else bytes(sha256), *rest)


def _as_thumbnail(row: Sequence[Any]) -> Thumbnail:
    width, height, method, animated, sha256, size, content_type = row
    kind: Method = "crop" if method == "crop" else "scale"
    return Thumbnail(
        ThumbnailSize(width, height, kind, animated),
        None if sha256 is None else bytes(sha256),
        size,
        content_type,
    )
