"""Server access control lists: which servers may take part in a room.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-access-control-lists-acls-for-rooms
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from architex.domain.identifiers import ServerName

_REMEMBERED: Final = 2_000


class ServerAcl:
    """The content of an m.room.server_acl event, ready to be asked.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomserver_acl
    """

    __slots__ = ("_allow", "_allow_ip_literals", "_deny", "_remembered")

    def __init__(self, content: Mapping[str, Any]) -> None:
        """Read the content of the event; whatever is not of its type counts as absent."""
        # "Defaults to true if missing or otherwise not a boolean."
        self._allow_ip_literals = content.get("allow_ip_literals") is not False
        self._allow = _Patterns(_strings(content.get("allow")))
        self._deny = _Patterns(_strings(content.get("deny")))
        self._remembered: dict[ServerName, bool] = {}

    def allows(self, server_name: ServerName) -> bool:
        """Whether a server may take part in the room."""
        answer = self._remembered.get(server_name)
        if answer is None:
            answer = self._decide(server_name)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[server_name] = answer
        return answer

    def _decide(self, server_name: ServerName) -> bool:
        host = _host_of(server_name)
        # 2. IP literals
        if not self._allow_ip_literals and _is_ip_literal(host):
            return False
        # 3. deny, 4. allow, 5. otherwise deny
        return not self._deny.match(host) and self._allow.match(host)


class _Patterns:
    """A set of globs. Time is at most patterns times their length times the name's."""

    def __init__(self, patterns: Iterable[str]) -> None:
        distinct = {_squeezed(pattern.lower()) for pattern in patterns}
        self._exact = frozenset(p.rstrip(".") for p in distinct if not _is_glob(p))
        self._globs = tuple(sorted(p for p in distinct if _is_glob(p)))

    def match(self, host: str) -> bool:
        return host in self._exact or any(glob_matches(glob, host) for glob in self._globs)


def glob_matches(glob: str, text: str) -> bool:
    """Whether a glob matches a whole text: `*` is any characters, `?` is one; case counts.

    Never goes back further than the last star: time is at most the product of both lengths.

    Spec: https://spec.matrix.org/v1.19/appendices/#glob-style-matching
    """
    if not _is_glob(glob):
        return glob == text
    at = here = 0
    star = resume = -1
    while here < len(text):
        if at < len(glob) and glob[at] == "*":
            star, resume = at, here
            at += 1
        elif at < len(glob) and glob[at] in ("?", text[here]):
            at += 1
            here += 1
        elif star >= 0:
            resume += 1
            at, here = star + 1, resume
        else:
            return False
    return all(rest == "*" for rest in glob[at:])


def _host_of(server_name: ServerName) -> str:
    """The part that lists are about: without the port, in lower case, without a final dot."""
    name = server_name.lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")


def _is_ip_literal(host: str) -> bool:
    # No top-level domain is a number; what ends in one is an address, however it is written.
    return host.startswith("[") or host.rpartition(".")[2].isdigit()


def _is_glob(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _squeezed(pattern: str) -> str:
    """The same pattern without stars beside stars."""
    while "**" in pattern:
        pattern = pattern.replace("**", "*")
    return pattern


def _strings(value: object) -> Iterable[str]:
    return (item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
