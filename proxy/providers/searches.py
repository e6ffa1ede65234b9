"""Searching a provider's list of batches, where it holds no name of ours."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from proxy.core.errors import ProviderUnavailableError
from proxy.ports.jobs import Credential
from proxy.ports.provider import ProviderBatch
from proxy.providers import _wire
from proxy.providers.calls import Calls
from proxy.providers.openai_objects import read_page

LIST_LIMIT: Final = 100
LIST_PAGES_MAX: Final = 100


async def created_since(
    calls: Calls,
    credential: Credential,
    since: datetime,
    *,
    what: str,
    path: str,
    cursor: str,
    read: Callable[[object], ProviderBatch | None],
) -> Sequence[ProviderBatch]:
    """Return every batch of the account that was created since then, oldest first.

    The list is newest first; `cursor` names the parameter that goes on behind an ID.

    Raises:
        ProviderUnavailableError: also if the list could not be read to that time: a
            search that was not complete proves nothing.
    """
    found: list[ProviderBatch] = []
    query = f"?limit={LIST_LIMIT}"
    for _ in range(LIST_PAGES_MAX):
        raw = await calls.call(what, credential, "GET", path + query)
        page = _wire.expected(read_page(_wire.json_value(raw)), what, "a list")
        batches = [batch for entry in page.entries if (batch := read(entry))]
        found += [batch for batch in batches if batch.created_at >= since]
        is_behind = bool(batches) and batches[-1].created_at < since
        # Not every provider says whether there is more: a full page may have a next one.
        is_last = not page.has_more and len(page.entries) < LIST_LIMIT
        if is_last or is_behind:
            return sorted(found, key=lambda batch: batch.created_at)
        if page.last_id is None:
            break
        query = f"?limit={LIST_LIMIT}&{cursor}={_wire.id_segment(page.last_id)}"
    raise ProviderUnavailableError(f"{what}: the list does not end")
