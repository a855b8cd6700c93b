"""What the server does once at each start: make its key, look at the database, migrate it."""

from __future__ import annotations

import logging
import os
import signal
import sys

from architex.gateways.clock import SystemRandomness
from architex.settings import Settings
from architex.storage.child_processes import die_with_parent
from architex.storage.database_checks import check_database
from architex.storage.key_files import load_or_create_signing_key
from architex.storage.migrations import migrate
from architex.storage.start_refusal import StartRefused

log = logging.getLogger(__name__)


def make_ready(settings: Settings) -> None:
    """Make what the server needs and does not have. Raises StartRefused."""
    load_or_create_signing_key(settings.signing_key_path, SystemRandomness().bytes)
    check_database(settings.conninfo, connections_wanted=settings.connections_wanted)
    migrate(settings.conninfo, on_applied=lambda m: log.info("applied migration %s", m.name))


def make_ready_in_child(settings: Settings) -> bool:
    """As `make_ready`, in a process of its own: who is forked later inherits no connection.

    Returns whether the server may start; why not, it has told.
    """
    while True:
        here = os.getpid()
        child = os.fork()
        if child == 0:
            die_with_parent(here, signal.SIGKILL)
            os._exit(0 if _succeeds(settings) else 1)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status) == 0
        log.warning("was killed while the database was looked at; trying again")


def _succeeds(settings: Settings) -> bool:
    try:
        make_ready(settings)
    except StartRefused as refusal:
        sys.stderr.write(f"architex: {refusal}\n")
        return False
    except BaseException:
        log.exception("the database could not be made ready")
        return False
    return True
