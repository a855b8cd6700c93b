"""Versions, capabilities and well-known files."""

from __future__ import annotations

import re
from pathlib import Path

from architex.settings import WellKnownSettings
from tests.api.client import Server, User, segment, settings_for, start_server, stop_server


def test_versions_are_public_and_of_the_specs_form(server: Server) -> None:
    versions = server.request("GET", "/_matrix/client/versions").ok()["versions"]
    assert versions[-1] == "v1.19"
    assert "v1.1" in versions
    assert all(re.fullmatch(r"v1\.\d+|r0\.\d\.\d", version) for version in versions)


def test_flags_that_clients_look_for_are_of_stable_features(server: Server) -> None:
    flags = server.request("GET", "/_matrix/client/versions").ok()["unstable_features"]
    assert flags["org.matrix.e2e_cross_signing"] is True
    proposals = {"org.matrix.msc3814"}  # dehydrated devices
    assert flags["uk.tcpip.msc4133"] is True  # without it clients edit no fields of profiles
    stable = (".stable", "cross_signing", "4133")
    assert all(name.endswith(stable) for name in flags.keys() - proposals)


def test_endpoints_answer_under_the_names_that_clients_still_use(alice: User) -> None:
    unstable = "/_matrix/client/unstable"
    alice.put(f"/profile/{alice.path}/m.tz", {"m.tz": "Europe/Berlin"}).ok()
    room = segment(alice.create_room(name="Tea"))
    summary = alice.get(f"/_matrix/client/v1/room_summary/{room}").ok()
    for old, told in {
        f"/im.nheko.summary/summary/{room}": summary,
        f"/im.nheko.summary/rooms/{room}/summary": summary,
        f"/uk.tcpip.msc4133/profile/{alice.path}/m.tz": {"m.tz": "Europe/Berlin"},
        f"/uk.tcpip.msc4133/profile/{alice.path}": alice.get(f"/profile/{alice.path}").ok(),
    }.items():
        assert alice.get(unstable + old).ok() == told


def test_capabilities_need_a_user(server: Server, alice: User) -> None:
    server.request("GET", "/capabilities").refused(401, "M_MISSING_TOKEN")
    capabilities = alice.get("/capabilities").ok()["capabilities"]
    assert capabilities["m.change_password"] == {"enabled": True}
    assert capabilities["m.3pid_changes"] == {"enabled": False}
    assert capabilities["m.profile_fields"] == {"enabled": True}
    rooms = capabilities["m.room_versions"]
    assert rooms["available"][rooms["default"]] == "stable"


def test_capabilities_answer_under_every_version_prefix(alice: User) -> None:
    for prefix in ("r0", "v1", "v3"):
        alice.get(f"/_matrix/client/{prefix}/capabilities").ok()


def test_clients_find_the_server(server: Server) -> None:
    answer = server.request("GET", "/.well-known/matrix/client")
    assert answer.ok() == {"m.homeserver": {"base_url": "https://matrix.test.example"}}
    assert answer.headers["access-control-allow-origin"] == "*"


def test_what_the_operator_does_not_say_is_not_found(server: Server) -> None:
    server.request("GET", "/.well-known/matrix/support").refused(404, "M_NOT_FOUND")
    server.request("GET", "/.well-known/matrix/server").refused(404, "M_NOT_FOUND")


def test_what_the_operator_says_is_told(database_url: str, tmp_path: Path) -> None:
    told = WellKnownSettings(
        delegated_server="matrix.x.example:443",
        support_page="https://x.example/help",
        support_email="admin@x.example",
    )
    server = start_server(database_url, settings_for(tmp_path, well_known=told))
    assert server.request("GET", "/.well-known/matrix/server").ok() == {
        "m.server": "matrix.x.example:443"
    }
    assert server.request("GET", "/.well-known/matrix/support").ok() == {
        "contacts": [{"role": "m.role.admin", "email_address": "admin@x.example"}],
        "support_page": "https://x.example/help",
    }
    stop_server(server)
