"""Metrics: what Prometheus is told about requests and the database."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from architex.bootstrap import Core
from architex.domain.errors import DatabaseUnavailable
from architex.followers.metrics_exporter import DatabaseCollector, serve_metrics
from architex.storage.figures import FIGURES, read_figures, read_lags
from tests.core import ALICE, create_room, send_message
from tests.ports import free_port

ABOUT = {name: about for name, (about, _) in FIGURES.items()}

# The library decides when it is imported whether processes share their counts.
_WORKER = """
import falcon, falcon.testing
from architex.api.metrics import RequestMetrics
class Hello:
    def on_get(self, req, resp, name):
        resp.media = {}
app = falcon.App(middleware=[RequestMetrics()])
app.add_route("/hello/{name}", Hello())
client = falcon.testing.TestClient(app)
for path in ("/hello/a", "/hello/b", "/nowhere/1", "/nowhere/2"):
    client.simulate_get(path)
"""


def scrape(port: int) -> Mapping[str, list[tuple[dict[str, str], float]]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


def test_requests_of_all_workers_are_counted_by_route(tmp_path: Path, core: Core) -> None:
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", _WORKER],
            env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
            check=True,
        )
    port = free_port()
    stop = serve_metrics("127.0.0.1", port, tmp_path, DatabaseCollector({}, dict, dict))
    try:
        samples = scrape(port)
    finally:
        stop()
    counts = {
        (labels["route"], labels["status"]): value
        for labels, value in samples["architex_http_requests_total"]
    }
    assert counts == {("/hello/{name}", "200"): 4, ("none", "404"): 4}
    assert sum(v for _, v in samples["architex_http_request_seconds_count"]) == 8


def test_figures_of_the_database_are_told(tmp_path: Path, core: Core) -> None:
    room_id = create_room(core)
    send_message(core, room_id, ALICE, "hello")
    collector = DatabaseCollector(
        ABOUT, lambda: read_figures(core.database), lambda: read_lags(core.database)
    )
    port = free_port()
    stop = serve_metrics("127.0.0.1", port, tmp_path, collector)
    try:
        samples = scrape(port)
    finally:
        stop()
    assert samples["architex_database_up"] == [({}, 1)]
    assert samples["architex_log_position"][0][1] >= 5
    assert {f"architex_{name}" for name in FIGURES} <= samples.keys()
    assert samples["architex_follower_lag"]


def test_database_that_is_away_is_told(tmp_path: Path) -> None:
    def fail() -> Mapping[str, int]:
        raise DatabaseUnavailable("away")

    families = list(DatabaseCollector(ABOUT, fail, fail).collect())
    assert [(f.name, f.samples[0].value) for f in families] == [("architex_database_up", 0)]


def test_two_cannot_serve_in_one_place(tmp_path: Path) -> None:
    port = free_port()
    collector = DatabaseCollector({}, dict, dict)
    stop = serve_metrics("127.0.0.1", port, tmp_path, collector)
    try:
        with pytest.raises(OSError, match="in use"):
            serve_metrics("127.0.0.1", port, tmp_path, collector)
    finally:
        stop()
