"""A server inside the test's process, and users who talk to it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import falcon.testing

from architex.api.middleware import WsgiApp
from architex.bootstrap import Core, build_core
from architex.bootstrap.web import build_app
from architex.settings import RegistrationSettings, Settings
from tests.house.conformity import check_answer

SERVER_NAME = "test.example"
PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    json: Any
    headers: Mapping[str, str]

    @property
    def errcode(self) -> str:
        """The Matrix error code."""
        return str(self.json["errcode"])

    def ok(self) -> Any:
        """The body of a success; fails the test with what the server said otherwise."""
        assert self.status == 200, (self.status, self.json)
        return self.json

    def refused(self, status: int, errcode: str) -> Any:
        """The body of a refusal; fails the test when it is another."""
        assert (self.status, self.json.get("errcode")) == (status, errcode), self.json
        return self.json


@dataclass
class Server:
    """A whole server over one database, without sockets."""

    app: WsgiApp
    core: Core
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
        address: str = "127.0.0.1",
    ) -> Answer:
        """One request. `path` without a leading /_ is below /_matrix/client/v3.

        Whatever is answered has to look as the specification says.
        """
        if not path.startswith(("/_", "/.")):
            path = "/_matrix/client/v3" + path
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        arguments: dict[str, Any] = {"json": body} if body is not None else {"body": raw}
        result = falcon.testing.simulate_request(
            self.app,
            method,
            path,
            params=dict(params or {}),
            headers=sent,
            extras={"RAW_URI": path, "REMOTE_ADDR": address},
            **arguments,
        )
        try:
            json = result.json
        except ValueError:
            json = None
        # Who asks for some fields of events gets no others.
        if "event_fields" not in str(params):
            check_answer(method, path, result.status_code, json)
        return Answer(result.status_code, json, result.headers)

    def register(self, username: str | None = None, **more: Any) -> User:
        """A new user, logged in."""
        username = username or f"user{next(self.numbers)}"
        body = {
            "auth": {"type": "m.login.dummy"},
            "username": username,
            "password": PASSWORD,
            **more,
        }
        told = self.request("POST", "/register", body).ok()
        return User(self, told["user_id"], told["access_token"], told["device_id"])


@dataclass
class User:
    """Somebody logged in on a device."""

    server: Server
    user_id: str
    token: str
    device_id: str

    def get(self, path: str, **params: Any) -> Answer:
        """GET, as this user."""
        return self.server.request("GET", path, token=self.token, params=params)

    def post(self, path: str, body: Any = None, **params: Any) -> Answer:
        """POST, as this user."""
        return self.server.request(
            "POST", path, {} if body is None else body, token=self.token, params=params
        )

    def put(self, path: str, body: Any = None, **params: Any) -> Answer:
        """PUT, as this user."""
        return self.server.request(
            "PUT", path, {} if body is None else body, token=self.token, params=params
        )

    def delete(self, path: str, body: Any = None) -> Answer:
        """DELETE, as this user."""
        return self.server.request("DELETE", path, body, token=self.token)

    def log_in_again(self, **more: Any) -> User:
        """The same user on another device."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": PASSWORD,
            **more,
        }
        told = self.server.request("POST", "/login", body).ok()
        return User(self.server, told["user_id"], told["access_token"], told["device_id"])

    def password_auth(self, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
        """The `auth` of a request that needs this user's password."""
        return {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": password,
            **more,
        }

    def create_room(self, **options: Any) -> str:
        """A new room of this user's; its ID."""
        room_id: str = self.post("/createRoom", options).ok()["room_id"]
        return room_id

    @property
    def path(self) -> str:
        """The user ID as a segment of a path."""
        return quote(self.user_id, safe="")


def segment(text: str) -> str:
    """Text as a segment of a path."""
    return quote(text, safe="")


def settings_for(data_dir: Any, **changes: Any) -> Settings:
    """Settings for a server in a test: open registration, cheap passwords, no rate limits."""
    registration = RegistrationSettings(
        enabled=True, guests=True, shared_secret="shared", weak_password_hashing=True
    )
    settings = Settings(
        **{
            "server_name": SERVER_NAME,
            "public_base_url": "https://matrix.test.example/",
            "data_dir": data_dir,
            "signing_key_path": data_dir / "id_ed25519",
            "registration": registration,
            **changes,
        }
    )
    return settings


def start_server(conninfo: str, settings: Settings, **parts: Any) -> Server:
    """A server over a migrated database; `parts` replace the clock or the randomness."""
    core = build_core(settings, conninfo=conninfo, **parts)
    return Server(build_app(settings, core), core)


def stop_server(server: Server) -> None:
    """Give the connections back."""
    server.core.close()
