"""Is a given PostgreSQL fit to keep our promises? Asked once, at each start."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from architex.storage.start_refusal import StartRefused

MINIMUM_VERSION = 15

# (setting, code, what goes wrong without it); each must not be off.
_DURABILITY = (
    ("fsync", "A022", "a power failure can destroy the database"),
    ("full_page_writes", "A023", "a power failure can leave half-written pages"),
    ("synchronous_commit", "A024", "events answered with 200 can be lost in a crash"),
)

_FACTS = """
    SELECT current_setting('server_version_num')::int / 10000,
           current_setting('fsync'), current_setting('full_page_writes'),
           current_setting('synchronous_commit'),
           pg_encoding_to_char(encoding), datcollate, datlocprovider::text,
           has_schema_privilege('public', 'CREATE') OR has_database_privilege(oid, 'CREATE'),
           current_setting('max_connections')::int
      FROM pg_database WHERE datname = current_database()
"""


def check_database(conninfo: str, *, connections_wanted: int = 0) -> None:
    """Raise StartRefused unless the database is one we can keep our promises on.

    Args:
        conninfo: a PostgreSQL URL or connection string.
        connections_wanted: how many connections our processes may open together.
    """
    facts = _ask(conninfo)
    if facts is None:
        raise StartRefused("A020", "the database answers nothing", mend="check database_url")
    version, fsync, full_page_writes, synchronous_commit, *rest = facts
    encoding, collation, provider, may_create, max_connections = rest
    if version < MINIMUM_VERSION:
        raise StartRefused(
            "A021",
            f"PostgreSQL {version} is too old; {MINIMUM_VERSION} or newer is needed",
            mend="pg_upgradecluster   (or leave database_url out: a PostgreSQL is embedded)",
        )
    values = (fsync, full_page_writes, synchronous_commit)
    for (name, code, danger), value in zip(_DURABILITY, values, strict=True):
        if value == "off":
            raise StartRefused(
                code,
                f"PostgreSQL runs with {name} = off: {danger}",
                mend=f'psql -c "ALTER SYSTEM SET {name} = on" -c "SELECT pg_reload_conf()"'
                f"   (and remove any ALTER DATABASE or ALTER ROLE … SET {name})",
            )
    recreate = (
        "createdb --template=template0 --encoding=UTF8 --locale-provider=libc --locale=C "
        f"{_database_name(conninfo)}_c   (and name it in database_url)"
    )
    if encoding != "UTF8":
        raise StartRefused(
            "A025", f"the database is encoded in {encoding}, not UTF8", mend=recreate
        )
    # datcollate belongs to libc; with ICU it is there too, but does not sort.
    if provider == "i" or (provider != "b" and collation not in ("C", "POSIX")):
        raise StartRefused(
            "A026",
            f"the database sorts by {collation!r} ({_PROVIDERS.get(provider)}), not by C",
            mend=recreate,
        )
    if not may_create:
        raise StartRefused(
            "A029",
            "the login of database_url may not create tables",
            mend=f'psql -c "ALTER DATABASE {_database_name(conninfo)} OWNER TO <login>"',
        )
    if connections_wanted > max_connections - 3:
        raise StartRefused(
            "A02A",
            f"our processes may open {connections_wanted} connections; "
            f"PostgreSQL allows {max_connections}",
            mend=f'psql -c "ALTER SYSTEM SET max_connections = {connections_wanted + 20}", then '
            "restart it (or lower [processes] database_connections)",
        )


_PROVIDERS = {"c": "libc", "i": "ICU", "b": "builtin", "d": "default"}


def _ask(conninfo: str) -> tuple[Any, ...] | None:
    try:
        with psycopg.connect(
            conninfo, connect_timeout=10, application_name="architex checks", autocommit=True
        ) as connection:
            return connection.execute(_FACTS).fetchone()
    except psycopg.Error as error:
        raise StartRefused(
            "A020",
            f"the database of database_url cannot be reached: {str(error).strip()}",
            mend="check it with psql and the same URL, or leave database_url out: "
            "a PostgreSQL is embedded",
        ) from error


def _database_name(conninfo: str) -> str:
    return str(conninfo_to_dict(conninfo).get("dbname") or "architex")
