"""Passwords, tokens and keys are neither logged, however much is logged, nor kept in clear."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import pytest

from architex.storage.key_files import load_signing_key
from tests.api.raw_requests import exchange
from tests.server import RunningServer, start_server

pytestmark = pytest.mark.slow

V3 = "/_matrix/client/v3"
SHARED_SECRET = "the-shared-secret-of-this-server"
TURN_SECRET = "the-secret-of-the-turn-server"
PASSWORD = "the first password, long enough"
NEW_PASSWORD = "the second password, long enough"
WRONG_PASSWORD = "a password that was mistyped"


class Tour:
    """Somebody who uses every secret there is, rightly and wrongly."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.secrets = {
            "shared secret": SHARED_SECRET,
            "TURN secret": TURN_SECRET,
            "password": PASSWORD,
            "new password": NEW_PASSWORD,
            "wrong password": WRONG_PASSWORD,
        }

    def ask(
        self, method: str, path: str, body: Any = None, *, status: int = 200, **how: Any
    ) -> Any:
        """The body of an answer of that status."""
        found, told = self.server.request(method, path, body, **how)
        assert found == status, (path, found, told)
        return told

    def keep(self, told: dict[str, Any], step: str) -> None:
        """Remember the secrets that an answer holds."""
        for name in ("access_token", "refresh_token", "login_token", "session", "password"):
            if name in told:
                self.secrets[f"{name} of {step}"] = told[name]

    def log_in(self, password: str, *, status: int = 200, **more: Any) -> Any:
        """Log in as alice."""
        identifier = {"type": "m.id.user", "user": "alice"}
        body = {"type": "m.login.password", "identifier": identifier, "password": password}
        return self.ask("POST", f"{V3}/login", {**body, **more}, status=status)

    def walk(self) -> None:
        """Use them."""
        begun = self.ask(
            "POST", f"{V3}/register", {"username": "alice", "password": PASSWORD}, status=401
        )
        auth = {"type": "m.login.dummy", "session": begun["session"]}
        self.keep(self.ask("POST", f"{V3}/register", {"auth": auth}), "registering")
        told = self.log_in(PASSWORD, refresh_token=True)
        self.keep(told, "logging in")
        told = self.ask("POST", f"{V3}/refresh", {"refresh_token": told["refresh_token"]})
        self.keep(told, "refreshing")
        token = told["access_token"]
        self.log_in(WRONG_PASSWORD, status=403)
        self.ask("POST", f"{V3}/login", {"password": PASSWORD}, status=400)
        self.ask("GET", f"{V3}/account/whoami?access_token={token}")
        self.ask("GET", f"{V3}/nothing/here?access_token={token}", status=404)
        for line in (f"GET /x?access_token={token}", f"nonsense {token} x y HTTP/1.1"):
            exchange(self.server.url, f"{line}\r\nHost: x\r\n\r\n".encode())
        exchange(
            self.server.url,
            f"PUT {V3}/x HTTP/1.1\r\nAuthorization: Bearer {token}\r\nno colon\r\n\r\n".encode(),
        )
        user = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}}
        begun = self.ask("POST", f"{V3}/login/get_token", {}, status=401, token=token)
        auth = {**user, "password": PASSWORD, "session": begun["session"]}
        told = self.ask("POST", f"{V3}/login/get_token", {"auth": auth}, token=token)
        self.keep(told, "letting another client in")
        told = self.ask(
            "POST", f"{V3}/login", {"type": "m.login.token", "token": told["login_token"]}
        )
        self.keep(told, "logging in by token")
        alice = told["user_id"].replace(":", "%3A")
        told = self.ask("POST", f"{V3}/user/{alice}/openid/request_token", {}, token=token)
        self.secrets["OpenID token"] = told["access_token"]
        userinfo = "/_matrix/federation/v1/openid/userinfo"
        self.ask("GET", f"{userinfo}?access_token={told['access_token']}")
        self.keep(self.ask("GET", f"{V3}/voip/turnServer", token=token), "TURN")
        body = {"new_password": NEW_PASSWORD}
        begun = self.ask("POST", f"{V3}/account/password", body, status=401, token=token)
        auth = {**user, "password": PASSWORD, "session": begun["session"]}
        self.ask("POST", f"{V3}/account/password", {"auth": auth}, token=token)
        self.log_in(NEW_PASSWORD)
        self.register_with_shared_secret()

    def register_with_shared_secret(self) -> None:
        """Make an administrator as scripts do."""
        path = "/_synapse/admin/v1/register"
        nonce = self.ask("GET", path)["nonce"]
        parts = [nonce, "root", PASSWORD, "admin"]
        mac = hmac.new(SHARED_SECRET.encode(), "\0".join(parts).encode(), hashlib.sha1)
        body = {"nonce": nonce, "username": "root", "password": PASSWORD, "admin": True}
        self.keep(self.ask("POST", path, {**body, "mac": mac.hexdigest()}), "the operator")


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    with start_server(
        tmp_path_factory.mktemp("secrets"),
        logging={"level": "debug"},
        registration={
            "enabled": True,
            "shared_secret": SHARED_SECRET,
            "weak_password_hashing": True,
        },
        turn={"uris": ["turn:turn.example"], "static_auth_secret": TURN_SECRET},
    ) as server:
        tour = Tour(server)
        tour.walk()
        key = load_signing_key(next(server.data_dir.rglob("id_ed25519")))
        seed = key._secret[:32]  # what nobody else may know
        tour.secrets["signing key"] = base64.b64encode(seed).decode().rstrip("=")
        assert server.stop() == 0
        yield tour


def found_in(content: bytes, secrets: dict[str, str]) -> list[str]:
    """The names of the secrets that stand somewhere."""
    return [name for name, secret in secrets.items() if secret.encode() in content]


def test_nothing_secret_is_logged(tour: Tour) -> None:
    log = tour.server.log()
    assert f"{V3}/account/whoami 200 " in log  # each request is
    assert found_in(log.encode(), tour.secrets) == []


def test_nothing_secret_is_kept_in_clear(tour: Tour) -> None:
    kept = [
        path
        for path in tour.server.data_dir.rglob("*")
        if path.is_file() and path.name != "id_ed25519"
    ]
    assert any(path.parent.name == "pg_wal" for path in kept)
    # The ID of a session of authentication is what the session is found by, for minutes.
    secrets = {
        name: secret for name, secret in tour.secrets.items() if not name.startswith("session")
    }
    found = {str(path): found_in(path.read_bytes(), secrets) for path in kept}
    assert {path: names for path, names in found.items() if names} == {}


def test_files_are_readable_by_their_owner_only(tour: Tour) -> None:
    data = tour.server.data_dir
    for path in (data / "keys" / "id_ed25519", data / "postgres", data / "postgres" / "cluster"):
        assert path.stat().st_mode & 0o077 == 0, path
