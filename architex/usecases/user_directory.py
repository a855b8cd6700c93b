"""Finding people by name.

Spec: https://spec.matrix.org/v1.19/client-server-api/#user-directory
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from architex.projections.directory_reads import DirectoryReads, FoundUser
from architex.usecases.requester import Requester

DEFAULT_RESULTS: Final = 10
MAX_RESULTS: Final = 50


@dataclass(frozen=True, slots=True)
class UserSearchResult:
    """Whom a search found, the best matches first.

    Attributes:
        limited: there are more.
    """

    users: Sequence[FoundUser]
    limited: bool


@dataclass(frozen=True)
class UserDirectory:
    """Searches among the people that somebody may see.

    Attributes:
        catch_up: brings what is read to the end of the log.
    """

    reads: DirectoryReads
    catch_up: Callable[[], None]

    def search(
        self, requester: Requester, search_term: str, limit: int = DEFAULT_RESULTS
    ) -> UserSearchResult:
        """Users who share a room with the requester, or are in a room that anyone may enter.

        Args:
            search_term: beginnings of words of a display name or of a user ID.
            limit: at most so many; what is beyond 50 becomes 50.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3user_directorysearch
        """
        self.catch_up()
        limit = max(0, min(limit, MAX_RESULTS))
        found = self.reads.find_users(search_term, requester.user_id, limit + 1)
        return UserSearchResult(found[:limit], len(found) > limit)
