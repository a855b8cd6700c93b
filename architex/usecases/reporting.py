"""Reporting: telling the administrators about events, rooms and users.

Spec: https://spec.matrix.org/v1.19/client-server-api/#reporting-content
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import Forbidden, NotFound, TooLarge
from architex.domain.identifiers import EventId, RoomId, ServerName, UserId, server_name_of
from architex.gateways.clock import Clock
from architex.projections.event_lookup import EventLookup
from architex.projections.member_reads import MemberReads
from architex.storage.accounts import AccountStore
from architex.storage.event_log import EventLog
from architex.storage.reports import Report, ReportStore
from architex.usecases.rate_limits import RateLimits
from architex.usecases.requester import Requester

MAX_REASON_BYTES: Final = 10_000


@dataclass(frozen=True)
class Reporting:
    """Takes complaints; administrators read them with `architex reports`.

    Every method raises TooLarge for a reason of more than MAX_REASON_BYTES, and LimitExceeded.
    """

    reports: ReportStore
    accounts: AccountStore
    event_log: EventLog
    events: EventLookup
    members: MemberReads
    rate_limits: RateLimits
    server_name: ServerName
    clock: Clock

    def report_event(
        self, requester: Requester, room_id: RoomId, event_id: EventId, reason: str
    ) -> None:
        """Report an event of a room that the requester is in.

        Raises:
            NotFound: they are not in the room, or it has no such event.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreporteventid
        """
        event = self.events.find_event(event_id)
        head = self.event_log.find_head(room_id)
        member = (
            None if head is None else self.members.find_member(requester.user_id, head.room_nid)
        )
        is_in_room = member is not None and member.membership == "join"
        if not is_in_room or event is None or event.room_id != room_id:
            raise NotFound("There is no such event, or you may not see it.")
        self._add(requester, reason, room_id, event_id, event.sender)

    def report_room(self, requester: Requester, room_id: RoomId, reason: str) -> None:
        """Report a room, whether the requester is in it or not.

        Nobody learns by it whether this server knows the room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreport
        """
        self._add(requester, reason, room_id, None, None)

    def report_user(self, requester: Requester, user_id: UserId, reason: str) -> None:
        """Report a user of this server or of another.

        Nobody learns by it which users there are.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3usersuseridreport
        """
        is_ours = server_name_of(user_id) == self.server_name
        if is_ours and self.accounts.find_account(user_id) is None:
            self._check(requester, reason)
            return
        self._add(requester, reason, None, None, user_id)

    # For administrators

    def list_reports(self, *, after: int = 0, limit: int = 100) -> Sequence[Report]:
        """Reports in the order in which they came."""
        return self.reports.list_reports(after=after, limit=limit)

    def delete_report(self, report_id: int) -> None:
        """Forget a report that was dealt with.

        Raises:
            NotFound: there is none of this number.
        """
        if not self.reports.delete(report_id):
            raise NotFound(f"There is no report {report_id}.")

    # Within

    def _check(self, requester: Requester, reason: str) -> None:
        if requester.is_guest:
            raise Forbidden("Guests cannot report.")
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise TooLarge(f"A reason has at most {MAX_REASON_BYTES} bytes.")
        self.rate_limits.spend("messages", requester.user_id)

    def _add(
        self,
        requester: Requester,
        reason: str,
        room_id: RoomId | None,
        event_id: EventId | None,
        user_id: UserId | None,
    ) -> None:
        self._check(requester, reason)
        self.reports.add(
            Report(
                requester.user_id,
                self.clock.now_ms(),
                room_id,
                event_id,
                user_id,
                reason.replace("\0", ""),
            )
        )
