"""E-mail addresses of users, and where users had them published through this server."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from architex.domain.identifiers import UserId
from architex.domain.third_party import ThirdPartyAddress
from architex.storage.pool import Database, PgConnection


@dataclass(frozen=True, slots=True)
class UserAddress:
    """An address of a user.

    Attributes:
        validated_ts: when the user showed that it is theirs, in milliseconds since 1970.
        added_ts: when it became part of the account.
    """

    address: ThirdPartyAddress
    validated_ts: int
    added_ts: int


class AddressTaken(Exception):
    """The address is another user's."""


class UserAddressStore:
    """The tables user_addresses and published_addresses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_user(self, address: ThirdPartyAddress) -> UserId | None:
        """Whose the address is; None when it is nobody's."""
        row = self._database.fetch_one(
            "SELECT user_id FROM user_addresses WHERE medium = %s AND address = %s",
            (address.medium, address.address),
        )
        return None if row is None else str(row[0])

    def list_addresses(self, user_id: UserId) -> Sequence[UserAddress]:
        """The user's addresses, the oldest first."""
        rows = self._database.fetch_all(
            "SELECT medium, address, validated_ts, added_ts FROM user_addresses"
            " WHERE user_id = %s ORDER BY added_ts, medium, address",
            (user_id,),
        )
        return [UserAddress(ThirdPartyAddress(row[0], row[1]), row[2], row[3]) for row in rows]

    def list_addresses_of(
        self, user_ids: Collection[UserId]
    ) -> Mapping[UserId, Sequence[ThirdPartyAddress]]:
        """The addresses of several users; who has none is not in it."""
        found: dict[UserId, list[ThirdPartyAddress]] = {}
        for user_id, medium, address in self._database.fetch_all(
            "SELECT user_id, medium, address FROM user_addresses"
            " WHERE user_id = ANY(%s) ORDER BY added_ts, medium, address",
            (list(user_ids),),
        ):
            found.setdefault(user_id, []).append(ThirdPartyAddress(medium, address))
        return found

    def add_address(self, user_id: UserId, added: UserAddress) -> bool:
        """Give an active user an address; again is allowed. False when it is another's."""
        try:
            with self._database.transaction() as connection:
                insert_address(connection, user_id, added)
        except AddressTaken:
            return False
        return True

    def remove_address(self, user_id: UserId, address: ThirdPartyAddress) -> bool:
        """Take an address from its user; False when it was not theirs."""
        return (
            self._database.execute(
                "DELETE FROM user_addresses WHERE user_id = %s AND medium = %s AND address = %s",
                (user_id, address.medium, address.address),
            )
            == 1
        )

    # Where they are published

    def note_published(
        self, user_id: UserId, address: ThirdPartyAddress, identity_server: str
    ) -> None:
        """Remember that an identity server tells whose the address is."""
        self._database.execute(
            "INSERT INTO published_addresses (user_id, medium, address, identity_server)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (user_id, address.medium, address.address, identity_server),
        )

    def forget_published(
        self, user_id: UserId, address: ThirdPartyAddress, identity_server: str
    ) -> None:
        """Forget what `note_published` noted."""
        self._database.execute(
            "DELETE FROM published_addresses WHERE user_id = %s AND medium = %s AND address = %s"
            " AND identity_server = %s",
            (user_id, address.medium, address.address, identity_server),
        )

    def forget_all_published(self, user_id: UserId) -> None:
        """Forget all that `note_published` noted of a user."""
        self._database.execute("DELETE FROM published_addresses WHERE user_id = %s", (user_id,))

    def list_published(self, user_id: UserId) -> Sequence[tuple[ThirdPartyAddress, str]]:
        """The user's published addresses, with the identity servers that tell them."""
        rows = self._database.fetch_all(
            "SELECT medium, address, identity_server FROM published_addresses"
            " WHERE user_id = %s ORDER BY medium, address, identity_server",
            (user_id,),
        )
        return [(ThirdPartyAddress(row[0], row[1]), row[2]) for row in rows]


def insert_address(connection: PgConnection, user_id: UserId, added: UserAddress) -> None:
    """Give a user an address, in a transaction; it is theirs afterwards.

    Nothing happens when the user has been deactivated meanwhile.

    Raises:
        AddressTaken: it is another's.
    """
    row = connection.execute(
        "WITH owner AS ("
        "  SELECT user_id FROM users WHERE user_id = %(user_id)s AND deactivated_ts IS NULL"
        "  FOR SHARE"
        "), added AS ("
        "  INSERT INTO user_addresses (medium, address, user_id, validated_ts, added_ts)"
        "  SELECT %(medium)s, %(address)s, user_id, %(validated_ts)s, %(added_ts)s FROM owner"
        "  ON CONFLICT (medium, address) DO UPDATE SET validated_ts = excluded.validated_ts"
        "    WHERE user_addresses.user_id = excluded.user_id RETURNING user_id"
        ") SELECT (SELECT count(*) FROM owner), (SELECT count(*) FROM added)",
        {
            "medium": added.address.medium,
            "address": added.address.address,
            "user_id": user_id,
            "validated_ts": added.validated_ts,
            "added_ts": added.added_ts,
        },
    ).fetchone()
    if row is not None and row[0] and not row[1]:
        raise AddressTaken
