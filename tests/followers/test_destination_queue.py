"""One destination: what waits for it, and when it is tried again."""

from __future__ import annotations

from architex.followers.destination_queue import DestinationQueue, delay_after, restore_queue
from architex.gateways.errors import RemoteRefused, RemoteUnreachable

CAROLS = "c.example"
NO_ROUTE = RemoteUnreachable(CAROLS, "No route.")


def high(low: float, high: float) -> float:
    return high


def test_what_was_marked_meanwhile_waits_until_it_has_arrived_too() -> None:
    queue = DestinationQueue(CAROLS)
    queue.mark("events", 5, 7)
    queue.mark("events", 9, 9)
    queue.note_arrived("events", 7)
    assert queue.cursors == {"events": 7}
    queue.note_arrived("events", 9)
    assert queue.cursors == {}


def test_restart_goes_on_from_the_first_thing_that_must_arrive() -> None:
    queue = DestinationQueue(CAROLS)
    queue.mark("events", 9, 9)
    queue.mark("to_device", 5, 9)
    queue.mark("typing", 2, 9)
    assert queue.as_destination(["events", "to_device"]).delivered == 4


def test_restored_queue_has_nothing_to_write() -> None:
    queue = DestinationQueue(CAROLS)
    queue.note_failure(NO_ROUTE, 1000, high)
    held = queue.as_destination([])
    assert queue.differs_from_saved(held)
    assert not restore_queue(held).differs_from_saved(restore_queue(held).as_destination([]))


def test_success_ends_the_delays() -> None:
    queue = DestinationQueue(CAROLS)
    for now_ms in (1000, 3000, 7000):
        queue.note_failure(NO_ROUTE, now_ms, high)
    assert (queue.failures, queue.failing_since_ts, queue.next_try_ts) == (3, 1000, 15_000)
    queue.note_success(15_000)
    assert (queue.failures, queue.failing_since_ts, queue.next_try_ts) == (0, None, 0)


def test_server_that_asks_for_a_long_pause_gets_an_hour_at_most() -> None:
    queue = DestinationQueue(CAROLS)
    refusal = RemoteRefused(CAROLS, 429, retry_after_ms=10**9)
    queue.note_failure(refusal, 0, high)
    assert queue.next_try_ts == 3_600_000


def test_sign_of_life_counts_the_less_the_more_tries_have_failed() -> None:
    queue = DestinationQueue(CAROLS)
    for _ in range(10):
        queue.note_failure(NO_ROUTE, 0, high)
    assert queue.note_sign_of_life(1000, retry_now=False)
    assert queue.next_try_ts == 50_000
    assert not queue.note_sign_of_life(60_000, retry_now=False)
    assert queue.note_sign_of_life(2000, retry_now=True)
    assert queue.next_try_ts == 2000


def test_delays_double_with_jitter_and_the_dead_wait_longer() -> None:
    def low(low: float, high: float) -> float:
        return low

    delays = [delay_after(n, is_dead=False, uniform=high) for n in range(1, 20)]
    assert delays[:4] == [2, 4, 8, 16]
    assert delays[-1] == 3600
    assert delay_after(3, is_dead=False, uniform=low) < 8
    assert delay_after(10_000, is_dead=True, uniform=high) == 24 * 3600
