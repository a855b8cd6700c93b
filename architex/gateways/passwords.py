"""Passwords: argon2id, computed off the greenlets that serve requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import argon2
import gevent.monkey
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type
from gevent.threadpool import ThreadPool

Result = TypeVar("Result")

# OWASP's recommendation for one lane: 46 MiB, one pass.
_MEMORY_KIB: Final = 47_104
_PASSES: Final = 1
# The least that argon2 computes: for test runs that register thousands of users.
_WEAK_MEMORY_KIB: Final = 8

# A password nobody has; verifying against its hash costs what a real one costs.
_NOBODYS: Final = "nobody has this password"

Hash = str
"""A hash in the PHC string format, with its salt and parameters."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What became of comparing a password with a hash.

    Attributes:
        rehash: the same password under today's parameters, when the hash has others.
    """

    holds: bool
    rehash: Hash | None = None


class Passwords(Protocol):
    """Hashes passwords and compares them with hashes."""

    def hash_password(self, password: str) -> Hash:
        """The hash of a password, with a new salt."""

    def verify_password(self, password: str, password_hash: Hash | None) -> Verification:
        """Whether the password is that of the hash; without a hash it never is.

        Takes the same time with and without a hash.
        """


class Argon2Passwords:
    """argon2id in a few threads of its own, so that neither time nor memory runs away.

    The result is the same without gevent's monkey patching; then it is computed right here.
    """

    def __init__(self, *, weak: bool = False, threads: int = 2) -> None:
        """Choose the cost.

        Args:
            weak: the cheapest parameters there are; only for tests.
            threads: how many passwords are computed at once; the others wait.
        """
        self._hasher = argon2.PasswordHasher(
            time_cost=_PASSES,
            memory_cost=_WEAK_MEMORY_KIB if weak else _MEMORY_KIB,
            parallelism=1,
            type=Type.ID,
        )
        self._threads = threads
        self._pool: ThreadPool | None = None
        self._nobodys_hash: Hash | None = None

    def hash_password(self, password: str) -> Hash:
        """See Passwords."""
        return self._off_the_loop(lambda: self._hasher.hash(password))

    def verify_password(self, password: str, password_hash: Hash | None) -> Verification:
        """See Passwords."""
        return self._off_the_loop(lambda: self._verify(password, password_hash))

    def _verify(self, password: str, password_hash: Hash | None) -> Verification:
        if password_hash is None:
            if self._nobodys_hash is None:
                self._nobodys_hash = self._hasher.hash(_NOBODYS)
            self._holds(password, self._nobodys_hash)
            return Verification(holds=False)
        if not self._holds(password, password_hash):
            return Verification(holds=False)
        if self._hasher.check_needs_rehash(password_hash):
            return Verification(holds=True, rehash=self._hasher.hash(password))
        return Verification(holds=True)

    def _holds(self, password: str, password_hash: Hash) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    def _off_the_loop(self, compute: Callable[[], Result]) -> Result:
        if not gevent.monkey.is_module_patched("threading"):
            return compute()
        if self._pool is None:
            # Here and not in __init__: the pool belongs to the hub of the forked worker.
            self._pool = ThreadPool(self._threads)
        result: Result = self._pool.apply(compute)
        return result
