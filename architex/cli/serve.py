"""`architex serve`: the supervisor of everything.

It starts the embedded PostgreSQL, migrates once, then runs gunicorn and one follower process as
children, starts again what dies, and stops all of it on SIGTERM or SIGINT. The children die with
it, also when it is killed.
"""

from __future__ import annotations

import http.client
import logging
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import click

from architex import __version__
from architex.cli.common import config_option, embedded_postgres, program, read_settings
from architex.settings import Listener, Settings, find_config_file
from architex.storage.child_processes import Word, die_with_parent, give_word
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.start_refusal import REFUSED_STATUS, StartRefused

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent.parent
_LOOK_INTERVAL_S = 0.25
_FIRST_DELAY_S = 0.1
# With the time that a process needs to start, the promise is to be back within 5 seconds, however
# often it was killed before.
_LONGEST_DELAY_S = 1.0
_HEALTHY_AFTER_S = 10.0
# Less than the 5 seconds that a stop may take; gunicorn itself gives busy requests 3.
_STOP_TIMEOUT_S = 4.5


@click.command()
@config_option
def serve(config_file: str | None) -> None:
    """Run the server: embedded PostgreSQL, migrations, web workers, followers."""
    settings = read_settings(config_file)
    environment = {**os.environ, "ARCHITEX_SUPERVISED": "1"}
    # Who is started again after a crash must not compile itself first (0.4 s of each start).
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    path = find_config_file(config_file)
    if path is not None:
        environment["ARCHITEX_CONFIG"] = str(path)
    _check_listeners(settings.listeners)
    signals = _Signals()
    with ExitStack() as stack:
        _make_data_dir(settings.data_dir)
        embedded = embedded_postgres(settings)
        if embedded is not None:
            stack.callback(embedded.stop)
        web = Child("web", _gunicorn_command(), environment)
        followers = Child("followers", [sys.executable, "-m", "architex", "follow"], environment)
        stack.callback(_stop, [web, followers])
        web.start()  # it loads while the database gets ready
        if embedded is not None:
            embedded.ensure_running()
        web.say(Word.MAKE_READY)
        _supervise(
            settings, embedded, web, followers, signals, lambda: _greet(settings, config_file)
        )


class Child:
    """A child process that is to run for ever, and is started again when it does not."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._delay_s = _FIRST_DELAY_S
        self._start_again_at = 0.0
        self._word: Word | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """Of its last process; negative is a signal's number; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start its process."""
        parent_pid = os.getpid()
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603 - our own argument list, no shell
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            # Ctrl-C in a terminal is for the supervisor, which stops the others in order.
            start_new_session=True,
            # At once: whoever starts the server again needs its port, and what was answered is
            # safe. A stop in order is told by signals.
            preexec_fn=lambda: die_with_parent(parent_pid, signal.SIGKILL),
        )
        self._give_word()

    def say(self, word: Word) -> None:
        """Tell its process, if that waits for it, and those that come after."""
        self._word = word
        self._give_word()

    def _give_word(self) -> None:
        process = self._process
        if self._word and process and process.stdin and not process.stdin.closed:
            give_word(process.stdin, self._word)

    def look_after(self) -> None:
        """Start it again, after a delay that grows while it keeps dying early."""
        now = time.monotonic()
        if self.is_running:
            return
        if self._start_again_at == 0.0:
            if now - self._started_at > _HEALTHY_AFTER_S:
                self._delay_s = _FIRST_DELAY_S
            log.error(
                "the %s process ended with %s; starting it again in %.1f s",
                self.name,
                _describe_status(self.exit_status),
                self._delay_s,
            )
            self._start_again_at = now + self._delay_s
            self._delay_s = min(self._delay_s * 2, _LONGEST_DELAY_S)
        elif now >= self._start_again_at:
            self._start_again_at = 0.0
            self.start()

    def send(self, number: signal.Signals) -> None:
        """Send its process a signal, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill_group(self) -> None:
        """Kill its process and whatever that started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class _Signals:
    """SIGTERM, SIGINT and SIGHUP as bytes in a pipe, so that waiting for them misses none."""

    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._noted)

    def wait(self, seconds: float) -> frozenset[int]:
        """The signals that came, at once if there are some, else after at most `seconds`."""
        ready, _, _ = select.select([self._read], [], [], seconds)
        return frozenset(os.read(self._read, 4096)) if ready else frozenset()

    def _noted(self, _number: int, _frame: FrameType | None) -> None:
        """The pipe has it."""


def _supervise(
    settings: Settings,
    embedded: EmbeddedPostgres | None,
    web: Child,
    followers: Child,
    signals: _Signals,
    when_ready: Callable[[], None],
) -> None:
    """Run until SIGTERM or SIGINT. Raises what ends the command when the web never gets ready."""
    children = [web]
    is_ready = False
    while True:
        came = signals.wait(_LOOK_INTERVAL_S if is_ready else 0.05)
        if came & {signal.SIGTERM, signal.SIGINT}:
            log.info("stopping")
            return
        if signal.SIGHUP in came:
            web.send(signal.SIGHUP)  # gunicorn starts fresh workers, with fresh settings
        if embedded is not None and not embedded.started_here:
            _look_after(embedded)
        if not is_ready:
            # What ended by itself cannot start; what was killed is started again, as it always is.
            if web.exit_status is not None and web.exit_status >= 0:
                raise _why_not_started(web.exit_status)
            is_ready = _is_healthy(settings.listeners[0])
            if is_ready:
                web.say(Word.SERVE)  # to those that come after: this database is looked at
                when_ready()
                # Only now: loading them takes nothing from who is waited for.
                followers.start()
                children.append(followers)
        for child in children:
            child.look_after()


def _why_not_started(status: int) -> Exception:
    if status == REFUSED_STATUS:  # it has told why
        return click.exceptions.Exit(1)
    return StartRefused(
        "A050",
        f"the web process ended with {_describe_status(status)}",
        mend='see its last words above; `[logging] level = "debug"` says more',
    )


def _look_after(embedded: EmbeddedPostgres) -> None:
    """Start PostgreSQL again when it died, or when the command that ran it is done with it."""
    try:
        embedded.ensure_running(timeout_seconds=20)
    except StartRefused as refusal:
        log.error("PostgreSQL is down, trying again: %s", refusal)
        time.sleep(1.0)


def _stop(children: Sequence[Child]) -> None:
    """Stop the children together; kill what does not stop in time."""
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    for child in children:
        child.send(signal.SIGTERM)
    while any(child.is_running for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    for child in children:
        if child.is_running:
            log.warning("the %s process did not stop in time and is killed", child.name)
            child.kill_group()


def _check_listeners(listeners: Sequence[Listener]) -> None:
    """Raise StartRefused unless each can be bound and has its certificate."""
    for listener in listeners:
        error = _why_not_bind(listener.host, listener.port)
        if error is not None:
            raise StartRefused(
                "A040",
                f"cannot listen on {listener.host} port {listener.port}: {error.strerror}",
                mend=f"see who does: ss -ltnp 'sport = :{listener.port}'   (or choose another "
                "port in [[listeners]])",
            )
        if listener.tls_certificate is None or listener.tls_key is None:
            continue
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(listener.tls_certificate, listener.tls_key)
        except OSError as problem:  # ssl.SSLError is one
            raise StartRefused(
                "A041",
                f"cannot use {listener.tls_certificate} with {listener.tls_key}: {problem}",
                mend=f"openssl x509 -in {listener.tls_certificate} -noout -pubkey; "
                f"openssl pkey -in {listener.tls_key} -pubout   (must be equal)",
            ) from problem


def _why_not_bind(host: str, port: int) -> OSError | None:
    """None when we can listen there; else what stands in the way."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
            probe.listen(1)
    except OSError as error:
        return error
    return None


def _make_data_dir(data_dir: Path) -> None:
    # Root's can be walked through, not listed: the embedded PostgreSQL below is another user.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        data_dir.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise StartRefused(
            "A011",
            f"cannot make data_dir {data_dir}: {error.strerror}",
            mend=f"sudo install -d -o $(id -u) {data_dir}",
        ) from error


def _gunicorn_command() -> list[str]:
    """gunicorn with the house configuration: the checkout's, else the one in the wheel."""
    places = (_PACKAGE.parent / "gunicorn.conf.py", _PACKAGE / "gunicorn.conf.py")
    configuration = next((place for place in places if place.exists()), places[0])
    return [sys.executable, "-m", "gunicorn", "-c", str(configuration), "architex.wsgi"]


def _is_healthy(listener: Listener) -> bool:
    """Whether GET /health answers 200."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)  # noqa: S104 - compared
    connection: http.client.HTTPConnection
    if listener.tls_certificate is None:
        connection = http.client.HTTPConnection(host, listener.port, timeout=2)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # it is us, on our own machine
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, listener.port, timeout=2, context=context)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _greet(settings: Settings, config_file: str | None) -> None:
    """Say that the server serves, and to a person also what to do next."""
    serves = f"serves {settings.server_name} at {settings.public_base_url}"
    if settings.logging.format == "json":
        log.info("Architex %s %s", __version__, serves)
        return
    architex = program()
    config = f" --config {config_file}" if config_file else ""
    configure = f"edit {config_file or find_config_file()}, then start the server again"
    if find_config_file(config_file) is None:
        configure = f"{architex} generate-config"
    click.echo(
        f"\nArchitex {__version__} {serves}\n"
        f"\n  Make a user:   {architex} user create{config} --admin alice"
        f"\n  Then log in:   any Matrix client, homeserver {settings.public_base_url}"
        f"\n  Configure it:  {configure}"
        "\n  Read on:       README.md, docs/"
        "\n  Stop it:       Ctrl-C\n"
    )


def _describe_status(status: int | None) -> str:
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"status {status}"
