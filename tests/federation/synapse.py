"""A real Synapse on the loopback address, with a certificate of the test's authority.

It comes with the tests' dependencies (matrix-synapse from PyPI) and keeps its data in SQLite.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.federation.authority import Authority
from tests.federation.homeserver import Homeserver
from tests.federation.moving_clock import MovingClock
from tests.ports import free_port

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 30.0
_OPEN = {"per_second": 100_000, "burst_count": 100_000}


def is_installed() -> bool:
    """Whether there is a Synapse to talk to."""
    return importlib.util.find_spec("synapse") is not None


@contextmanager
def synapse(directory: Path, authority: Authority) -> Iterator[Synapse]:
    """A Synapse, started."""
    server = Synapse(directory, authority)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Synapse(Homeserver):
    """One Synapse.

    Attributes:
        directory: its configuration, database and log.
    """

    def __init__(
        self, directory: Path, authority: Authority, clock: MovingClock | None = None
    ) -> None:
        """Write the configuration; starts nothing.

        Args:
            clock: it goes by this one, and waits before it tries a server again as long as it does
                by default.
        """
        port = free_port()
        super().__init__(f"127.0.0.1:{port}", authority.ca_file)
        self.directory = directory
        self._clock = clock
        certificate = authority.issue("127.0.0.1")
        self._process: subprocess.Popen[bytes] | None = None
        self._config_file = directory / "homeserver.yaml"
        log_config = directory / "log.yaml"
        log_config.write_text(
            json.dumps(
                {
                    "version": 1,
                    "disable_existing_loggers": False,
                    "formatters": {"f": {"format": "%(asctime)s %(name)s %(message)s"}},
                    "handlers": {
                        "file": {
                            "class": "logging.FileHandler",
                            "formatter": "f",
                            "filename": str(directory / "synapse.log"),
                        }
                    },
                    "root": {
                        "level": os.environ.get("SYNAPSE_LOG", "INFO"),
                        "handlers": ["file"],
                    },
                }
            )
        )
        # YAML reads JSON.
        self._config_file.write_text(
            json.dumps(self._config(port, authority, certificate, log_config), indent=1)
        )

    def _config(
        self, port: int, authority: Authority, certificate: Any, log_config: Path
    ) -> dict[str, Any]:
        directory = self.directory
        # Retry at once: an outage of seconds stands for one of hours.
        hasty = {
            "destination_min_retry_interval": "1s",
            "destination_retry_multiplier": 1,
            "destination_max_retry_interval": "2s",
        }
        return {
            "server_name": self.name,
            "public_baseurl": f"{self.url}/",
            "pid_file": str(directory / "synapse.pid"),
            "listeners": [
                {
                    "port": port,
                    "bind_addresses": ["127.0.0.1"],
                    "tls": True,
                    "type": "http",
                    "resources": [{"names": ["client", "federation"], "compress": False}],
                }
            ],
            "tls_certificate_path": str(certificate.certificate),
            "tls_private_key_path": str(certificate.key),
            "federation_custom_ca_list": [str(authority.ca_file)],
            "database": {
                "name": "sqlite3",
                "args": {"database": str(directory / "homeserver.db")},
            },
            "log_config": str(log_config),
            "media_store_path": str(directory / "media"),
            "signing_key_path": str(directory / "signing.key"),
            "macaroon_secret_key": "tests",
            "form_secret": "tests",
            "report_stats": False,
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "bcrypt_rounds": 4,
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "ip_range_blacklist": [],
            "allow_public_rooms_over_federation": True,
            "federation": hasty if self._clock is None else {},
            # Else a first /sync is answered from memory for two minutes.
            "caches": {"sync_response_cache_duration": "0s"},
            "rc_message": _OPEN,
            "rc_registration": _OPEN,
            "rc_login": {"address": _OPEN, "account": _OPEN, "failed_attempts": _OPEN},
            "rc_joins": {"local": _OPEN, "remote": _OPEN},
            "rc_joins_per_room": _OPEN,
            "rc_invites": {"per_room": _OPEN, "per_user": _OPEN, "per_issuer": _OPEN},
            "rc_presence": {"per_user": _OPEN},
            "rc_federation": {
                "window_size": 1000,
                "sleep_limit": 100_000,
                "sleep_delay": 1,
                "reject_limit": 100_000,
                "concurrent": 100,
            },
        }

    def start(self) -> None:
        """Start it (again) on the same data; returns when it serves."""
        command = [sys.executable, "-m", "synapse.app.homeserver", "-c", str(self._config_file)]
        # Synapse's own warnings are none of ours.
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        if self._clock is not None:
            environment |= self._clock.environment
        with (self.directory / "stdout.log").open("ab") as output:
            if not (self.directory / "signing.key").exists():
                subprocess.run(
                    [*command, "--generate-keys"],
                    check=True,
                    stdout=output,
                    stderr=output,
                    env=environment,
                )
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self.log()[-3000:]
            try:
                if self.request("GET", "/_matrix/client/versions")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"Synapse does not start: {self.log()[-3000:]}")

    def stop(self) -> None:
        """Stop it; it can be started again."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """Kill it, as a power failure would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """What it wrote so far."""
        files = (self.directory / "stdout.log", self.directory / "synapse.log")
        return "\n".join(f.read_text(errors="replace") for f in files if f.exists())
