"""Settings come from a TOML file and the environment; what is wrong is refused with a hint."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from architex.settings import RateLimit, Settings, load_settings, render_config
from architex.storage.start_refusal import StartRefused

SYTEST_CONFIG = """
server_name = "127.0.0.1:8800"
public_base_url = "https://127.0.0.1:8800"
data_dir = "{directory}/data"
[[listeners]]
host = "127.0.0.1"
port = 8800
tls_certificate = "/srv/tls.crt"
tls_key = "/srv/tls.key"
[[listeners]]
host = "127.0.0.1"
port = 8801
[logging]
level = "info"
[outbound]
ca_file = "/srv/ca.crt"
ip_blocklist = []
[federation]
ca_file = "/srv/ca.crt"
ip_blocklist = []
[registration]
enabled = true
guests = true
shared_secret = "reg_secret"
weak_password_hashing = true
[rate_limits]
enabled = false
[presence]
enabled = true
[rooms]
default_version = "10"
aliases_require_membership = false
[room_directory]
unauthenticated = true
over_federation = true
anyone_may_publish = true
[appservices]
files = ["/srv/as1.yaml", "/srv/as2.yaml"]
[media]
url_previews = true
url_preview_ip_blocklist = []
[identity]
trusted_servers = ["*"]
[email]
smtp_host = "127.0.0.1"
smtp_port = 2525
smtp_tls = "none"
from = "architex@localhost"
[recaptcha]
siteverify_url = "https://127.0.0.1:9/siteverify"
public_key = "public"
private_key = "private"
required = false
[cas]
server_url = "https://127.0.0.1:9/cas"
"""


def _load(tmp_path: Path, text: str, **environment: str) -> Settings:
    file = tmp_path / "architex.toml"
    file.write_text(text.replace("{directory}", str(tmp_path)))
    return load_settings(file, environment=environment)


def _refusal(tmp_path: Path, text: str, **environment: str) -> StartRefused:
    with pytest.raises(StartRefused) as refused:
        _load(tmp_path, text, **environment)
    return refused.value


def test_every_key_of_the_conformance_harness_is_accepted(tmp_path: Path) -> None:
    settings = _load(tmp_path, SYTEST_CONFIG)
    assert settings.server_name == "127.0.0.1:8800"
    assert [listener.port for listener in settings.listeners] == [8800, 8801]
    assert settings.listeners[0].tls_key == Path("/srv/tls.key")
    assert settings.rooms.default_version == "10"
    assert settings.email is not None
    assert settings.email.sender == "architex@localhost"
    assert settings.federation.ip_blocklist == ()
    assert settings.rate_limits.enabled is False


def test_nothing_configured_is_a_server_on_localhost(tmp_path: Path) -> None:
    settings = _load(tmp_path, "")
    assert settings.server_name == "localhost"
    assert settings.public_base_url == "http://127.0.0.1:8008"
    assert settings.data_dir == tmp_path / "data"
    assert settings.signing_key_path == tmp_path / "keys" / "id_ed25519"
    assert settings.database_url is None


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = _load(tmp_path, "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.server_name = "evil.example"  # type: ignore[misc] # the point of the test


def test_server_with_a_data_dir_of_its_own_keeps_its_key_there(tmp_path: Path) -> None:
    settings = _load(tmp_path, 'data_dir = "elsewhere"')
    assert settings.signing_key_path == tmp_path / "elsewhere" / "keys" / "id_ed25519"


def test_moving_data_dir_does_not_change_the_signing_key(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "id_ed25519"
    key.parent.mkdir()
    key.touch()
    assert _load(tmp_path, 'data_dir = "elsewhere"').signing_key_path == key


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('server_nam = "x"', "`server_name` in the top level"),
        ("[registration]\nenable = true", "`enabled` in [registration]"),
        ("[registrations]\nenabled = true", "`registration` in the top level"),
        ("[rooms]\nshared_secret = 'x'", "`shared_secret` in [registration]"),
        ("[[listeners]]\nprt = 1", "`port` in [listeners.0]"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest(tmp_path: Path, text: str, hint: str) -> None:
    refusal = _refusal(tmp_path, text)
    assert refusal.code == "A003"
    assert hint in refusal.message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("server_name = 5", "server_name"),
        ('server_name = "no spaces.example"', "server_name"),
        ("[registration]\nenabled = 'yes'", "registration.enabled"),
        ("[processes]\nweb_workers = true", "processes.web_workers"),
        ("[processes]\nweb_workers = -1", "processes.web_workers"),
        ("[logging]\nlevel = 'loud'", "logging.level"),
        ("[federation]\nip_blocklist = ['10.0.0.0/99']", "federation.ip_blocklist.0"),
        ("registration = 1", "registration"),
        ("[email]\nsmtp_host = 'x'", "email.from"),
        ("listeners = []", "listeners"),
        ("[[listeners]]\nport = 1\ntls_key = 'a'", "listeners"),
        ("public_base_url = 'ftp://x'", "public_base_url"),
    ],
)
def test_wrong_value_is_refused_by_its_key(tmp_path: Path, text: str, key: str) -> None:
    refusal = _refusal(tmp_path, text)
    assert refusal.code == "A004"
    assert refusal.message.startswith(f"{key}: ")


def test_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    assert _refusal(tmp_path, "server_name = ").code == "A002"


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartRefused) as refused:
        load_settings(tmp_path / "none.toml", environment={})
    assert refused.value.code == "A001"
    assert "generate-config" in refused.value.mend


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        'server_name = "file.example"\n[registration]\nenabled = false',
        ARCHITEX_SERVER_NAME="environment.example",
        ARCHITEX_REGISTRATION__ENABLED="true",
        ARCHITEX_REGISTRATION__SHARED_SECRET="12",
        ARCHITEX_PROCESSES__WEB_WORKERS="3",
        ARCHITEX_IDENTITY__TRUSTED_SERVERS="a.example, b.example",
        ARCHITEX_FEDERATION__IP_BLOCKLIST="[]",
        ARCHITEX_LISTENERS='[{host = "::1", port = 9000}]',
        ARCHITEX_RATE_LIMITS__JOINS__BURST="7",
    )
    assert settings.server_name == "environment.example"
    assert settings.registration.enabled is True
    assert settings.registration.shared_secret == "12"
    assert settings.web_workers == 3
    assert settings.identity.trusted_servers == ("a.example", "b.example")
    assert settings.federation.ip_blocklist == ()
    assert settings.public_base_url == "http://[::1]:9000"
    assert settings.rate_limits.joins == RateLimit(per_second=0.5, burst=7)


def test_unknown_variable_is_refused_with_the_nearest(tmp_path: Path) -> None:
    refusal = _refusal(tmp_path, "", ARCHITEX_REGISTRATION__ENABLE="true")
    assert "ARCHITEX_REGISTRATION__ENABLED?" in refusal.message


def test_misspelt_top_level_variable_is_refused(tmp_path: Path) -> None:
    assert "ARCHITEX_DATA_DIR?" in _refusal(tmp_path, "", ARCHITEX_DATADIR="x").message


def test_variables_that_a_container_sets_for_a_service_are_not_ours(tmp_path: Path) -> None:
    _load(tmp_path, "", ARCHITEX_PORT="tcp://10.0.0.1:80", ARCHITEX_SERVICE_HOST="10.0.0.1")


def test_wrong_variable_is_named(tmp_path: Path) -> None:
    refusal = _refusal(tmp_path, "", ARCHITEX_PROCESSES__WEB_WORKERS="many")
    assert refusal.code == "A004"
    assert "ARCHITEX_PROCESSES__WEB_WORKERS" in refusal.message


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    settings = _load(tmp_path, "[registration]\nshared_secret = 'hush'")
    assert "hush" not in repr(settings)


def test_generated_config_is_valid_and_changes_nothing(tmp_path: Path) -> None:
    text = render_config({"server_name": "example.org", "registration.shared_secret": "s"})
    settings = _load(tmp_path, text)
    assert settings.server_name == "example.org"
    assert settings.registration.shared_secret == "s"
    assert settings.rate_limits == _load(tmp_path, "").rate_limits


def test_new_rooms_are_of_the_version_that_cannot_be_taken_over(tmp_path: Path) -> None:
    assert _load(tmp_path, "").rooms.default_version == "12"


def test_shown_defaults_are_the_defaults(tmp_path: Path) -> None:
    text = render_config({}).split("#[", 1)[0]  # before the sections that are off by default
    uncommented = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    for line in ("tls_certificate", "tls_key"):
        uncommented = re.sub(rf"^{line} = .*", "", uncommented, flags=re.MULTILINE)
    settings = _load(tmp_path, uncommented)
    assert settings == _load(tmp_path, "")


@pytest.mark.parametrize(
    "line",
    [
        'notaries = ["no name"]',
        'old_keys = [{key_id = "ed25519:x", key = "AAAA", expired_ts = 1}]',
        'old_keys = [{key_id = "rsa:x", key = "' + "A" * 43 + '", expired_ts = 1}]',
        'old_keys = [{key_id = "ed25519:x", key = "' + "A" * 43 + '"}]',
    ],
)
def test_notaries_and_old_keys_must_be_such(tmp_path: Path, line: str) -> None:
    file = tmp_path / "architex.toml"
    file.write_text(f"[federation]\n{line}\n")
    with pytest.raises(StartRefused) as refusal:
        load_settings(file)
    assert refusal.value.code == "A004"
