"""The house configuration of gunicorn, for `architex serve` and for plain gunicorn alike.

Alone: `gunicorn -c gunicorn.conf.py architex.wsgi`, with $ARCHITEX_CONFIG or ./architex.toml,
under the supervisor you have; then `architex follow` runs the followers. At its top this
file must not import psycopg: sockets are patched for gevent first.
"""

import importlib
import os
import signal
import subprocess
import sys
import warnings

from gevent import monkey

from architex.api.gunicorn_worker import TlsFiles, worker_class_for
from architex.gateways.log_output import log_config
from architex.settings import load_settings
from architex.storage.child_processes import Word, die_with_parent, wait_for_word
from architex.storage.start_refusal import REFUSED_STATUS

settings = load_settings()
if settings.metrics.port is not None:
    # Before anything that counts is imported: the workers count in files there.
    settings.metrics_dir.mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.metrics_dir)

wsgi_app = "architex.wsgi"
bind = [
    f"[{listener.host}]:{listener.port}"
    if ":" in listener.host
    else f"{listener.host}:{listener.port}"
    for listener in settings.listeners
]
worker_class = worker_class_for(
    [
        TlsFiles(listener.tls_certificate, listener.tls_key)
        if listener.tls_certificate and listener.tls_key
        else None
        for listener in settings.listeners
    ],
    settings.trusted_proxies,
)
workers = settings.web_workers
worker_connections = settings.processes.open_requests_per_worker
backlog = 2048
# A worker whose event loop stands still for so many seconds is replaced.
timeout = 60
# Parked requests return at once; this is for busy ones. The promise is 5 seconds in all.
graceful_timeout = 3
logconfig_dict = log_config(settings.logging.level, settings.logging.format)
# The heartbeat file in memory: on a busy disk a worker would seem to stand still.
_memory = "/dev/shm"  # noqa: S108 - gunicorn makes an unlinked file there
worker_tmp_dir = _memory if os.access(_memory, os.W_OK) else None
control_socket_disable = True
proc_name = "architex"

_database = None


def on_starting(server):
    """Ready what the workers need, before the first of them is forked."""
    for counted in settings.metrics_dir.glob("*.db"):  # by the workers of another run
        counted.unlink()
    if os.environ.get("ARCHITEX_SUPERVISED"):
        _load_program()
        word = wait_for_word()
    else:
        _run_database()
        _load_program()
        word = Word.MAKE_READY
    if word is None:
        sys.exit(1)
    if word is Word.MAKE_READY:
        starting = importlib.import_module("architex.bootstrap.starting")
        if not starting.make_ready_in_child(settings):
            sys.exit(REFUSED_STATUS)


def _load_program():
    """Load what every worker needs, once: they start in no time, and share its memory."""
    # The workers patch the rest, and need no warning of it; gunicorn's master forks and waits for
    # signals in its own way.
    warnings.filterwarnings("ignore", category=monkey.MonkeyPatchWarning)
    monkey.patch_all(os=False, signal=False, subprocess=False)
    importlib.import_module("architex.bootstrap.web")
    importlib.import_module("architex.bootstrap.garbage").spare_the_program()


def _run_database():
    """Alone, the first process runs the embedded database; else `architex serve` does."""
    global _database
    if settings.database_url is not None:
        return
    master = os.getpid()
    _database = subprocess.Popen(
        [sys.executable, "-m", "architex", "database", "run"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(master),
    )
    if not _database.stdout.readline():
        sys.exit(1)


def post_fork(server, worker):
    """A worker does not outlive its master, which needs its port; what it answered is safe."""
    die_with_parent(worker.ppid, signal.SIGKILL)
    # Until the worker has handlers of its own, a stop must not wait for it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def on_exit(server):
    """Stop what `on_starting` started."""
    if _database is not None:
        _database.terminate()
        _database.wait(10)
