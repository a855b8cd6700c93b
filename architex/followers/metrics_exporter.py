"""Serves /metrics for Prometheus: what the web workers count, and figures of the database."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from architex.domain.errors import DatabaseUnavailable

log = logging.getLogger(__name__)


class DatabaseCollector(Collector):
    """Asks the database whenever somebody asks for the metrics.

    Args:
        about: name of a figure → what it is.
        read_figures: name → number.
        read_lags: follower → how far it is behind the log.
    """

    def __init__(
        self,
        about: Mapping[str, str],
        read_figures: Callable[[], Mapping[str, int]],
        read_lags: Callable[[], Mapping[str, int]],
    ) -> None:
        self._about = about
        self._read_figures = read_figures
        self._read_lags = read_lags

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures of this moment; only `architex_database_up` 0 when there are none."""
        try:
            figures, lags = self._read_figures(), self._read_lags()
        except DatabaseUnavailable:
            yield GaugeMetricFamily("architex_database_up", "Whether it answers.", value=0)
            return
        yield GaugeMetricFamily("architex_database_up", "Whether it answers.", value=1)
        for name, number in figures.items():
            yield GaugeMetricFamily(f"architex_{name}", self._about[name], value=number)
        behind = GaugeMetricFamily(
            "architex_follower_lag",
            "Positions between what a follower has seen and the end of the log.",
            labels=("follower",),
        )
        for follower, lag in lags.items():
            behind.add_metric([follower], lag)
        yield behind


def serve_metrics(host: str, port: int, counts: Path, collector: Collector) -> Callable[[], None]:
    """Serve /metrics in a thread; returns what stops it.

    Args:
        counts: the directory of the files that the web workers count in.

    Raises:
        OSError: somebody else listens there.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    counts.mkdir(parents=True, exist_ok=True)
    MultiProcessCollector(registry, path=str(counts))  # type: ignore[no-untyped-call]  # untyped
    server, thread = start_http_server(port, host, registry)
    log.info("metrics are served at http://%s:%s/metrics", host, port)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(1)

    return stop
