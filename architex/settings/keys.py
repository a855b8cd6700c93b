"""What an operator can choose: every key, what it means, its default and its bounds."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from architex.storage.embedded_postgres import EmbeddedPostgres

# Networks that nothing outside may make us ask: loopback, private, link-local, documentation,
# multicast, and what carries IPv4 inside IPv6.
PRIVATE_NETWORKS = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
)


def _key(
    about: str,
    default: Any = dataclasses.MISSING,
    *,
    name: str | None = None,
    choices: Sequence[str] | None = None,
    at_least: float | None = None,
    is_network: bool = False,
    is_secret: bool = False,
) -> Any:
    """One key: what it does (printed by `architex generate-config`), its default and its bounds.

    `name` is the key in the file where Python does not allow it as an attribute.
    """
    metadata = {
        "about": about,
        "name": name,
        "choices": choices,
        "at_least": at_least,
        "is_network": is_network,
        "is_secret": is_secret,
    }
    return field(default=default, metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """An address to accept requests on, all APIs on each; with TLS if it has a certificate."""

    host: str = _key("address to listen on", "127.0.0.1")
    port: int = _key("TCP port", at_least=1)
    tls_certificate: Path | None = _key("PEM file: the certificate, then its chain", None)
    tls_key: Path | None = _key("PEM file: the private key of tls_certificate", None)


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """How many processes and connections."""

    web_workers: int = _key(
        "processes that answer requests; 0: one per processor core", 0, at_least=0
    )
    database_connections: int = _key(
        "connections to PostgreSQL of each process, at most", 8, at_least=2
    )
    open_requests_per_worker: int = _key(
        "connections a web worker serves at once, waiting /sync included", 10_000, at_least=10
    )


@dataclass(frozen=True, kw_only=True)
class LoggingSettings:
    """What is written to standard error."""

    level: str = _key("how much is logged", "info", choices=("debug", "info", "warning", "error"))
    format: str = _key("text, or one JSON object per line", "text", choices=("text", "json"))


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """Figures for Prometheus, at /metrics on a listener of their own."""

    port: int | None = _key("TCP port; left out: none are served, and nothing is counted", None)
    host: str = _key("address to listen on; whoever reaches it may read", "127.0.0.1")


@dataclass(frozen=True, kw_only=True)
class OutboundSettings:
    """Requests we make that are no federation: push, application services, identity servers…"""

    ca_file: Path | None = _key("PEM file of CAs to trust besides the system's", None)
    ip_blocklist: tuple[str, ...] = _key(
        "networks that are never connected to", PRIVATE_NETWORKS, is_network=True
    )


@dataclass(frozen=True, kw_only=True)
class OldKeySettings:
    """A key that this server used to sign events with."""

    key_id: str = _key('its ID, like "ed25519:a_AbCdEf"')
    key: str = _key("its public half, in unpadded base64")
    expired_ts: int = _key("when it stopped, in milliseconds since 1970", at_least=0)


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """Talking to other homeservers."""

    enabled: bool = _key("talk to other homeservers at all", True)
    ca_file: Path | None = _key("PEM file of CAs to trust besides the system's", None)
    ip_blocklist: tuple[str, ...] = _key(
        "networks that are never connected to", PRIVATE_NETWORKS, is_network=True
    )
    notaries: tuple[str, ...] = _key(
        "servers that are believed about the keys of servers that cannot be reached", ()
    )
    old_keys: tuple[OldKeySettings, ...] = _key(
        "keys that were signed with before, so that old events can still be verified", ()
    )
    sends_at_once: int = _key("to how many servers is sent at once", 100, at_least=1)


@dataclass(frozen=True, kw_only=True)
class RegistrationSettings:
    """Who may make an account."""

    enabled: bool = _key("anyone may make an account through a client", False)
    guests: bool = _key("guest accounts, which need no password", False)
    tokens_required: bool = _key(
        "a new account needs a registration token (m.login.registration_token)", False
    )
    email_required: bool = _key(
        "a new account needs an e-mail address that is confirmed; see [email]", False
    )
    shared_secret: str | None = _key(
        "who knows it can make accounts through /_synapse/admin/v1/register", None, is_secret=True
    )
    weak_password_hashing: bool = _key(
        "hash passwords with the cheapest parameters; for tests only", False
    )


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """A bucket that lets `burst` actions through at once and refills at `per_second`."""

    per_second: float = _key("actions a second in the long run", at_least=0.0001)
    burst: int = _key("actions at once", at_least=1)


@dataclass(frozen=True, kw_only=True)
class RateLimitSettings:
    """How often somebody may do something before M_LIMIT_EXCEEDED."""

    enabled: bool = _key("limit at all", True)
    messages: RateLimit = _key("events sent, per user", RateLimit(per_second=10, burst=100))
    changes: RateLimit = _key(
        "requests that do more than read and have no limit of their own, per user",
        RateLimit(per_second=50, burst=1000),
    )
    profiles: RateLimit = _key(
        "changes of one's profile, which go to all rooms one is in, per user",
        RateLimit(per_second=0.2, burst=20),
    )
    devices: RateLimit = _key(
        "changes of one's devices and keys, which go to all rooms one is in, per user",
        RateLimit(per_second=0.5, burst=100),
    )
    searches: RateLimit = _key(
        "searches for messages and people, per user", RateLimit(per_second=2, burst=50)
    )
    joins: RateLimit = _key("joins, per user", RateLimit(per_second=0.5, burst=20))
    invites: RateLimit = _key("invites, per inviting user", RateLimit(per_second=0.5, burst=50))
    room_messages: RateLimit = _key(
        "events that users of this server send, per room", RateLimit(per_second=50, burst=1000)
    )
    room_joins: RateLimit = _key(
        "joins of users of this server, per room", RateLimit(per_second=10, burst=200)
    )
    registrations: RateLimit = _key(
        "new accounts, per address", RateLimit(per_second=0.2, burst=5)
    )
    logins: RateLimit = _key(
        "attempts to log in, per address and per account", RateLimit(per_second=0.2, burst=10)
    )
    authentications: RateLimit = _key(
        "beginnings of interactive authentication and passwords given in it, per user; per "
        "address where nobody is logged in",
        RateLimit(per_second=1, burst=50),
    )
    mails: RateLimit = _key(
        "mails sent at somebody's wish, per address of a client and per e-mail address",
        RateLimit(per_second=0.01, burst=10),
    )
    identity_servers: RateLimit = _key(
        "requests to identity servers, per user", RateLimit(per_second=0.1, burst=20)
    )
    media: RateLimit = _key("uploads, per user", RateLimit(per_second=1, burst=50))
    remote_media: RateLimit = _key(
        "files fetched from other servers and web pages for previews, per user; thumbnails "
        "for other servers, per server",
        RateLimit(per_second=2, burst=200),
    )
    federation: RateLimit = _key("transactions, per server", RateLimit(per_second=50, burst=500))
    federation_reads: RateLimit = _key(
        "events and history that a server fetches, in requests",
        RateLimit(per_second=50, burst=1000),
    )
    federation_states: RateLimit = _key(
        "whole states and auth chains that a server fetches", RateLimit(per_second=2, burst=100)
    )
    lookups: RateLimit = _key(
        "profiles, aliases and lists of other servers that somebody asks for, and whether user "
        "names are free, per user; per address where nobody is logged in",
        RateLimit(per_second=10, burst=200),
    )
    remote_lookups: RateLimit = _key(
        "profiles, aliases, lists and spaces that we ask of a server for our users",
        RateLimit(per_second=10, burst=200),
    )


@dataclass(frozen=True, kw_only=True)
class PresenceSettings:
    """Who is online."""

    enabled: bool = _key("tell users about each other's presence", True)


@dataclass(frozen=True, kw_only=True)
class EncryptionSettings:
    """End-to-end encryption."""

    max_backup_bytes_per_user: int = _key(
        "what the key backups of one user may take together, at some 600 bytes for the key of a "
        "session; 0: any amount",
        1024**3,
        at_least=0,
    )


@dataclass(frozen=True, kw_only=True)
class RoomSettings:
    """New rooms."""

    default_version: str = _key("room version of new rooms", "12")
    aliases_require_membership: bool = _key("only who is in a room may give it an alias", True)
    forget_on_leave: bool = _key(
        "who leaves a room, or is kicked or banned, forgets it: nothing of it is shown any more",
        False,
    )


@dataclass(frozen=True, kw_only=True)
class ServerNoticeSettings:
    """What `architex user notice` tells users."""

    localpart: str = _key("of the user whom notices are from; nobody can log in as it", "notices")
    name: str = _key("of that user, and of the rooms with notices", "Server Notices")


@dataclass(frozen=True, kw_only=True)
class RoomDirectorySettings:
    """The list of public rooms."""

    unauthenticated: bool = _key("anyone may read the list, without an account", False)
    over_federation: bool = _key("other servers may read the list", False)
    anyone_may_publish: bool = _key(
        "whoever may change a room's aliases may put it in the list; else administrators only",
        True,
    )


@dataclass(frozen=True, kw_only=True)
class AppserviceSettings:
    """Bridges and bots."""

    files: tuple[Path, ...] = _key("registration files (YAML) of application services", ())


@dataclass(frozen=True, kw_only=True)
class MediaSettings:
    """Files that users upload, and previews of web pages."""

    max_upload_bytes: int = _key(
        "largest upload, and largest file that is fetched from other servers",
        50 * 1024 * 1024,
        at_least=1,
    )
    max_bytes_per_user: int = _key(
        "what the uploads of one user may take together; 0: any amount", 0, at_least=0
    )
    remote_cache_bytes: int = _key(
        "files of other servers that are kept; of more, those go that nobody has read for longest",
        10 * 1024**3,
        at_least=0,
    )
    remote_cache_bytes_per_server: int = _key(
        "of these, what files of any one server may take; 0: any part of it", 0, at_least=0
    )
    remote_days: int = _key(
        "files of other servers go when nobody has read them for so many days; 0: never",
        90,
        at_least=0,
    )
    local_days: int = _key(
        "files of our users go, for good, when nobody has read them for so many days; 0: never",
        0,
        at_least=0,
    )
    remove_redacted: bool = _key(
        "files of our users go when the messages that showed them are redacted; in encrypted "
        "rooms the server cannot see which those are",
        True,
    )
    unauthenticated_downloads: bool = _key(
        "what is stored from now on can also be read by the old endpoints, which need no access "
        "token; anyone who knows a link can then use it",
        False,
    )
    max_thumbnail_pixels: int = _key(
        "largest picture that is thumbnailed, width times height", 32_000_000, at_least=1
    )
    url_previews: bool = _key("the server fetches web pages to preview links", False)
    url_preview_ip_blocklist: tuple[str, ...] = _key(
        "networks whose pages are never fetched", PRIVATE_NETWORKS, is_network=True
    )


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """A bucket of an S3-compatible store that keeps the files, instead of data_dir/media."""

    endpoint: str = _key('host, or host:port, of the store, like "s3.example.org"')
    bucket: str = _key("name of the bucket; it must exist")
    access_key: str = _key("who we are there")
    secret_key: str = _key("what shows it", is_secret=True)
    region: str | None = _key("region of the bucket, if the store has any", None)
    prefix: str = _key('what the names of all objects begin with, like "architex/"', "")
    tls: bool = _key("speak TLS with it", True)


@dataclass(frozen=True, kw_only=True)
class TurnSettings:
    """TURN servers, which relay voice and video calls."""

    uris: tuple[str, ...] = _key('like "turn:turn.example.org?transport=udp"; none: no relay', ())
    static_auth_secret: str | None = _key(
        "what coturn calls by the same name", None, is_secret=True
    )
    lifetime_seconds: int = _key("how long credentials count", 86_400, at_least=60)
    guests: bool = _key("relay the calls of guests, too", False)


@dataclass(frozen=True, kw_only=True)
class IdentitySettings:
    """Identity servers: e-mail addresses and phone numbers to user IDs."""

    trusted_servers: tuple[str, ...] = _key('identity servers that users may name; "*" is any', ())


@dataclass(frozen=True, kw_only=True)
class EmailSettings:
    """The mail server that our mails are given to."""

    smtp_host: str = _key("name of the mail server")
    smtp_port: int = _key("its port", 587, at_least=1)
    smtp_tls: str = _key(
        "starttls, tls (from the first byte) or none",
        "starttls",
        choices=("starttls", "tls", "none"),
    )
    smtp_user: str | None = _key("login there, if it needs one", None)
    smtp_password: str | None = _key("password there", None, is_secret=True)
    sender: str = _key("address that our mails come from", name="from")
    next_link_hosts: tuple[str, ...] = _key(
        "hosts that clients may send a browser on to after a mail's link; others are shown with a "
        'link instead. "*" is any',
        (),
    )


@dataclass(frozen=True, kw_only=True)
class RecaptchaSettings:
    """Google's captcha on registration."""

    public_key: str = _key("site key")
    private_key: str = _key("secret key", is_secret=True)
    required: bool = _key("no registration without it", True)
    siteverify_url: str = _key(
        "where answers are verified", "https://www.google.com/recaptcha/api/siteverify"
    )


@dataclass(frozen=True, kw_only=True)
class TermsSettings:
    """A document that people agree to when they make an account."""

    url: str = _key("where it is")
    name: str = _key("what it is called", "Terms and Conditions")
    version: str = _key("which version of it this is", "1")


@dataclass(frozen=True, kw_only=True)
class CasSettings:
    """Log in through a Central Authentication Service."""

    server_url: str = _key("base URL of the service")


@dataclass(frozen=True, kw_only=True)
class WellKnownSettings:
    """What /.well-known/matrix tells beside public_base_url."""

    delegated_server: str | None = _key(
        "host, or host:port, where other servers reach this one, if not under server_name", None
    )
    support_page: str | None = _key("URL of a page that helps users", None)
    support_matrix_id: str | None = _key("user ID of an administrator, to ask for help", None)
    support_email: str | None = _key("e-mail address of an administrator", None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that an operator can choose. Made by `load_settings`, never changed after.

    Relative paths in the file are relative to the file's own directory; here they are absolute.
    """

    server_name: str = _key(
        "the part after the colon in user IDs: your domain. It can never be changed",
        "localhost",
    )
    public_base_url: str = _key(
        "where clients reach the server; by default the first listener", ""
    )
    data_dir: Path = _key(
        "the embedded database, media and (unless signing_key_path says otherwise) keys",
        Path("data"),
    )
    database_url: str | None = _key(
        "a PostgreSQL >= 15, like postgresql://user:password@host/name; "
        "left out: one is embedded in data_dir",
        None,
        is_secret=True,
    )
    signing_key_path: Path = _key(
        "the server's signing key, Ed25519 in OpenSSH format; made on first start. Left out: "
        "keys/id_ed25519 beside this file if that exists or data_dir is left out too, "
        "else keys/id_ed25519 in data_dir",
        Path("keys/id_ed25519"),
    )
    listeners: tuple[Listener, ...] = _key(
        "addresses to listen on", (Listener(host="127.0.0.1", port=8008),)
    )
    trusted_proxies: tuple[str, ...] = _key(
        'reverse proxies whose X-Forwarded-For is believed, like ["127.0.0.1/32"]',
        (),
        is_network=True,
    )
    processes: ProcessSettings = _key("", ProcessSettings())
    logging: LoggingSettings = _key("", LoggingSettings())
    metrics: MetricsSettings = _key("", MetricsSettings())
    registration: RegistrationSettings = _key("", RegistrationSettings())
    rate_limits: RateLimitSettings = _key("", RateLimitSettings())
    rooms: RoomSettings = _key("", RoomSettings())
    server_notices: ServerNoticeSettings = _key("", ServerNoticeSettings())
    room_directory: RoomDirectorySettings = _key("", RoomDirectorySettings())
    presence: PresenceSettings = _key("", PresenceSettings())
    encryption: EncryptionSettings = _key("", EncryptionSettings())
    media: MediaSettings = _key("", MediaSettings())
    media_s3: S3Settings | None = _key("", None)
    federation: FederationSettings = _key("", FederationSettings())
    outbound: OutboundSettings = _key("", OutboundSettings())
    appservices: AppserviceSettings = _key("", AppserviceSettings())
    turn: TurnSettings = _key("", TurnSettings())
    identity: IdentitySettings = _key("", IdentitySettings())
    well_known: WellKnownSettings = _key("", WellKnownSettings())
    email: EmailSettings | None = _key("", None)
    recaptcha: RecaptchaSettings | None = _key("", None)
    terms: TermsSettings | None = _key("", None)
    cas: CasSettings | None = _key("", None)

    @property
    def postgres_directory(self) -> Path:
        """Where the embedded PostgreSQL is, if there is no database_url."""
        return self.data_dir / "postgres"

    @property
    def media_directory(self) -> Path:
        """Where the files of media are."""
        return self.data_dir / "media"

    @property
    def conninfo(self) -> str:
        """How to connect to the database: the given one, or the embedded one (if it runs)."""
        return self.database_url or EmbeddedPostgres(self.postgres_directory).conninfo()

    @property
    def web_workers(self) -> int:
        """How many web workers to run, with the default filled in."""
        return self.processes.web_workers or len(os.sched_getaffinity(0))

    @property
    def metrics_dir(self) -> Path:
        """Where the web workers count for /metrics."""
        return self.data_dir / "metrics"

    @property
    def connections_wanted(self) -> int:
        """Connections that all our processes may open together: workers, followers, commands."""
        per_process = self.processes.database_connections + 2  # one listens, one writes
        return (self.web_workers + 1) * per_process + 12


def name_of(f: dataclasses.Field[Any]) -> str:
    """The key of a field in the file."""
    return f.metadata["name"] or f.name


def sections() -> dict[str, type[Any]]:
    """Name of each [section] → its dataclass; the top level has the name ""."""
    sections: dict[str, type[Any]] = {"": Settings}
    for name, kind in typing.get_type_hints(Settings).items():
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            sections[name] = kind
    return sections
