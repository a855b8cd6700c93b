"""`architex follow`: the background followers of one host, in one process."""

# ruff: noqa: E402 - sockets are patched before anything that uses them is imported
from gevent import monkey

monkey.patch_all()

import logging
import signal
import threading

import click
import gevent

from architex.bootstrap import run_followers
from architex.cli.common import config_option, read_settings

log = logging.getLogger(__name__)


def _keep_alive(stop: threading.Event) -> None:
    """Something for gevent to wait for, or it says that a process without timers is stuck."""
    while not stop.is_set():
        gevent.sleep(60)


@click.command()
@config_option
def follow(config_file: str | None) -> None:
    """Run the followers: federation, push, application services, search and the like.

    `architex serve` does so by itself; this is for plain gunicorn. Several hosts may run it: each
    follower runs once in all, and another host takes over when one dies.
    """
    settings = read_settings(config_file)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    gevent.spawn(_keep_alive, stop)
    run_followers(settings, stop)
    log.info("the followers have stopped")
