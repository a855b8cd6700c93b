"""A domain name system as two tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from architex.gateways.errors import RemoteUnreachable
from architex.gateways.name_lookup import Service


@dataclass
class FakeNames:
    """See architex.gateways.name_lookup.NameLookup.

    Attributes:
        broken: names whose lookup fails.
        asked: every name that was looked up.
    """

    addresses: dict[str, Sequence[str]] = field(default_factory=dict)
    services: dict[str, Sequence[Service]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def find_addresses(self, name: str, timeout_s: float) -> Sequence[str]:
        """See NameLookup."""
        self._note(name)
        return self.addresses.get(name, ())

    def find_services(self, name: str, timeout_s: float) -> Sequence[Service]:
        """See NameLookup."""
        self._note(name)
        return self.services.get(name, ())

    def _note(self, name: str) -> None:
        self.asked.append(name)
        if name in self.broken:
            raise RemoteUnreachable(name, "The name servers do not answer.")
