"""Server ACLs: which servers may take part.

Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomserver_acl
"""

from __future__ import annotations

import fnmatch
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architex.domain.server_acl import ServerAcl, glob_matches

ALL = ["*"]


@pytest.mark.parametrize(
    ("deny", "server_name", "allowed"),
    [
        (["evil.com"], "evil.com", False),
        (["evil.com"], "EVIL.com", False),
        (["Evil.COM"], "evil.com", False),
        (["evil.com"], "evil.com.", False),
        (["evil.com."], "evil.com", False),
        (["evil.com"], "evil.com:8448", False),
        (["evil.com"], "evil.com:1234", False),
        (["evil.com:8448"], "evil.com:8448", True),
        (["evil.com"], "good.com", True),
        (["evil.com"], "notevil.com", True),
        (["evil.com"], "evil.com.org", True),
        (["evil.com"], "sub.evil.com", True),
        (["*.evil.com"], "sub.evil.com", False),
        (["*.evil.com"], "SUB.evil.com.:80", False),
        (["*.evil.com"], "evil.com", True),
        (["*evil.com"], "evil.com", False),
        (["evil.???"], "evil.com", False),
        (["evil.???"], "evil.de", True),
        (["e*l.c*m"], "evil.com", False),
        (["1.2.3.4"], "1.2.3.4:8448", False),
        (["[::1]"], "[::1]", False),
        (["[::1]"], "[::1]:8448", False),
        (["[2001:DB8::1]"], "[2001:db8::1]:1", False),
        (["[*]"], "[::1]:8448", False),
        ([], "evil.com", True),
        (["*"], "evil.com", False),
        (["ev[i]l.com"], "evil.com", True),
        (["evil.com\n"], "evil.com", True),
    ],
)
def test_denied_servers(deny: list[str], server_name: str, allowed: bool) -> None:
    assert ServerAcl({"allow": ALL, "deny": deny}).allows(server_name) is allowed


@pytest.mark.parametrize(
    ("content", "server_name", "allowed"),
    [
        ({}, "a.example", False),
        ({"allow": []}, "a.example", False),
        ({"allow": "*"}, "a.example", False),
        ({"allow": {"*": True}}, "a.example", False),
        ({"allow": ALL}, "a.example", True),
        ({"allow": [5, None, "*"]}, "a.example", True),
        ({"allow": ["a.example"]}, "a.example:1", True),
        ({"allow": ["a.example"]}, "A.EXAMPLE", True),
        ({"allow": ["a.example"]}, "b.example", False),
        ({"allow": ALL, "deny": "a.example"}, "a.example", True),
        ({"allow": ["a.example"], "deny": ["a.example"]}, "a.example", False),
        ({"allow": ALL, "allow_ip_literals": False}, "a.example", True),
        ({"allow": ALL, "allow_ip_literals": False}, "1.2.3.4", False),
        ({"allow": ALL, "allow_ip_literals": False}, "1.2.3.4:8448", False),
        ({"allow": ALL, "allow_ip_literals": False}, "001.2.3.4", False),
        ({"allow": ALL, "allow_ip_literals": False}, "127.1", False),
        ({"allow": ALL, "allow_ip_literals": False}, "[::1]", False),
        ({"allow": ALL, "allow_ip_literals": False}, "[::1]:8448", False),
        ({"allow": ALL, "allow_ip_literals": False}, "1.2.3.4.example", True),
        ({"allow": ALL, "allow_ip_literals": True}, "1.2.3.4", True),
        ({"allow": ALL}, "1.2.3.4", True),
        ({"allow": ALL, "allow_ip_literals": "false"}, "1.2.3.4", True),
        ({"allow": ALL, "allow_ip_literals": 0}, "1.2.3.4", True),
    ],
)
def test_rules_apply_in_their_order(
    content: dict[str, Any], server_name: str, allowed: bool
) -> None:
    acl = ServerAcl(content)
    assert acl.allows(server_name) is allowed
    assert acl.allows(server_name) is allowed


@given(st.text("ab*?.", max_size=8), st.text("ab.", max_size=10))
def test_globs_match_as_regular_expressions_would(glob: str, text: str) -> None:
    assert glob_matches(glob, text) is bool(re.match(fnmatch.translate(glob), text))


@pytest.mark.parametrize("pattern", ["**.evil.com", "*" * 500 + ".evil.com", "***.e**l.com"])
def test_stars_beside_stars_are_one(pattern: str) -> None:
    acl = ServerAcl({"allow": ALL, "deny": [pattern]})
    assert not acl.allows("a.evil.com")
    assert acl.allows("evil.com")


def test_hostile_globs_cost_no_more_than_their_length_times_the_name() -> None:
    class Counted(str):
        __slots__ = ()
        looks = 0

        def __getitem__(self, key: Any) -> str:
            Counted.looks += 1
            return super().__getitem__(key)

    glob = Counted("*a" * 60 + "b")
    assert not glob_matches(glob, "a" * 255)
    assert Counted.looks <= 4 * len(glob) * 255


def test_decisions_are_the_same_however_many_servers_were_asked_about() -> None:
    acl = ServerAcl({"allow": ALL, "deny": ["*.evil.com"]})
    for _ in range(2):
        for number in range(1_500):
            assert not acl.allows(f"s{number}.evil.com")
            assert acl.allows(f"s{number}.good.com")
