"""What batch APIs share that keep no files and no name of ours.

The input goes inline with the create. Afterwards a batch is known by its time and its size
alone, until its results can be read and show whose it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Final

from proxy.core.dialects import BatchApi
from proxy.core.errors import ProviderUnavailableError
from proxy.core.ids import BatchId
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import BatchLimits, ProviderBatch, Submission
from proxy.ports.upstream import UpstreamClient
from proxy.providers import _wire
from proxy.providers.calls import Calls
from proxy.providers.inputs import Input, list_item
from proxy.providers.openai_objects import read_page

LIST_LIMIT: Final = 100
LIST_PAGES_MAX: Final = 100


class InlineBatches(ABC):
    """The batch API of one upstream, but for what differs: cancelling and reading.

    `client` is used and not closed. The results of a batch go by its own ID, for
    `results` and `delete_file` alike.
    """

    path: ClassVar[str]
    """Where batches are created and listed."""

    member: ClassVar[bytes]
    """What the body of a call is named in its item of the input."""

    cursor: ClassVar[str]
    """The parameter by which the list goes on behind an ID."""

    def __init__(
        self,
        upstream: Upstream,
        api: BatchApi,
        client: UpstreamClient,
        *,
        clock: Clock,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._window = api.longest
        self._limits = BatchLimits.of(api)
        self._calls = Calls(upstream, client, clock, headers)
        self._clock = clock

    @abstractmethod
    def _input(self, submission: Submission) -> Input:
        """Return the body of a create."""

    @abstractmethod
    def _read(self, value: object) -> ProviderBatch | None:
        """Return the batch that an object of the provider's is, if it is one."""

    def limits(self, endpoint: str) -> BatchLimits:  # noqa: ARG002
        return self._limits

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:  # noqa: ARG002
        return list_item(custom_id, self.member)

    async def upload(self, credential: Credential, submission: Submission) -> str | None:  # noqa: ARG002
        return None

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:  # noqa: ARG002
        return None

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        assert file_id is None, "there are no files"
        what, body = f"create of {submission.batch_id}", self._input(submission)
        raw = await self._calls.create(what, credential, self.path, submission, body)
        return self._batch(what, raw)

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,
        input_file_id: str | None = None,  # noqa: ARG002
    ) -> Sequence[ProviderBatch]:
        """Return the account's batches since `created_after`, whosever they are.

        The list is newest first.

        Raises:
            ProviderUnavailableError: also if the list could not be read to that time: a
                search that was not complete proves nothing.
        """
        what = f"search for {batch_id}"
        found: list[ProviderBatch] = []
        query = f"?limit={LIST_LIMIT}"
        for _ in range(LIST_PAGES_MAX):
            raw = await self._calls.call(what, credential, "GET", self.path + query)
            page = _wire.expected(read_page(_wire.json_value(raw)), what, "a list")
            batches = [batch for entry in page.entries if (batch := self._read(entry))]
            found += [batch for batch in batches if batch.created_at >= created_after]
            # A page of the oldest ones, of a list in another order, says nothing of the newest.
            is_behind = bool(batches) and batches[-1].created_at < created_after
            is_behind = is_behind and batches[-1].created_at <= batches[0].created_at
            # Not every provider says whether there is more: a full page may have a next one.
            is_last = not page.has_more and len(page.entries) < LIST_LIMIT
            if is_last or is_behind:
                return sorted(found, key=lambda batch: batch.created_at)
            if page.last_id is None:
                break
            query = f"?limit={LIST_LIMIT}&{self.cursor}={_wire.id_segment(page.last_id)}"
        raise ProviderUnavailableError(f"{what}: the list does not end")

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        await self._calls.delete(f"delete of {file_id}", credential, self._place(file_id))

    def _batch(self, what: str, raw: bytes) -> ProviderBatch:
        return _wire.expected(self._read(_wire.json_value(raw)), what, "a batch")

    def _place(self, provider_batch_id: str) -> str:
        return f"{self.path}/{_wire.id_segment(provider_batch_id)}"
