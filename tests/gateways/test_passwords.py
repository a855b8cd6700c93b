"""Passwords."""

from __future__ import annotations

import subprocess
import sys

import pytest

from architex.gateways.passwords import Argon2Passwords


@pytest.fixture(scope="module")
def passwords() -> Argon2Passwords:
    """The cheapest there are."""
    return Argon2Passwords(weak=True)


@pytest.mark.parametrize("password", ["secret", "übers3kr1t", "nul\0nul", " ", "x" * 10_000])
def test_password_is_that_of_its_hash(passwords: Argon2Passwords, password: str) -> None:
    password_hash = passwords.hash_password(password)
    assert password_hash.startswith("$argon2id$")
    assert passwords.verify_password(password, password_hash).holds
    assert not passwords.verify_password(password + "x", password_hash).holds


def test_same_password_has_different_hashes(passwords: Argon2Passwords) -> None:
    assert passwords.hash_password("x") != passwords.hash_password("x")


@pytest.mark.parametrize("password_hash", [None, "", "plain", "$argon2id$v=19$broken"])
def test_without_a_sound_hash_no_password_holds(
    passwords: Argon2Passwords, password_hash: str | None
) -> None:
    assert not passwords.verify_password("x", password_hash).holds
    assert not passwords.verify_password("nobody has this password", None).holds


def test_hash_of_other_parameters_is_made_anew() -> None:
    weak, strong = Argon2Passwords(weak=True), Argon2Passwords()
    password_hash = weak.hash_password("secret")
    assert weak.verify_password("secret", password_hash).rehash is None
    verification = strong.verify_password("secret", password_hash)
    assert verification.holds
    assert verification.rehash is not None
    assert strong.verify_password("secret", verification.rehash).rehash is None
    assert strong.verify_password("wrong", password_hash).rehash is None


def test_greenlets_run_while_a_password_is_hashed() -> None:
    program = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent
from architex.gateways.passwords import Argon2Passwords
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0)
ticker = gevent.spawn(tick)
hashed = Argon2Passwords().hash_password("secret")
ticker.kill()
assert ticks > 5, ticks
assert Argon2Passwords().verify_password("secret", hashed).holds
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
