"""OpenRouter's batches.

The input goes inline with the create, behind its scalar fields, which the server reads as
they come. A batch keeps no name of ours, cannot be stopped, and has its results in itself.
So after an ambiguous create it is known by time and size alone until they can be read.

Sources: OpenRouter, "Batch API Quickstart" and API reference; types of its Python SDK.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Final

from proxy.core.dialects import BatchApi
from proxy.core.errors import ProviderRejectedError
from proxy.core.ids import BatchId
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import BatchLimits, LineKind, ProviderBatch, ResultLine, Submission
from proxy.ports.upstream import UpstreamClient
from proxy.providers import _wire
from proxy.providers.calls import Calls
from proxy.providers.inputs import json_input, list_item
from proxy.providers.item_cutter import ItemCutter
from proxy.providers.openrouter_objects import provider_batch, read_batch
from proxy.providers.result_lines import cut
from proxy.providers.searches import created_since

_PATH: Final = "/v1/batches"
_RESULTS: Final = "results"


class OpenRouterBatches:
    """The batch API of one upstream that speaks OpenRouter's dialect.

    `client` is used and not closed. The results of a batch go by its own ID, for
    `results` and `delete_file` alike.
    """

    def __init__(
        self, upstream: Upstream, api: BatchApi, client: UpstreamClient, *, clock: Clock
    ) -> None:
        self._window = api.longest
        self._limits = BatchLimits.of(api)
        self._calls = Calls(upstream, client, clock)
        self._clock = clock

    def limits(self, endpoint: str) -> BatchLimits:  # noqa: ARG002
        return self._limits

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:  # noqa: ARG002
        return list_item(custom_id, b"body")

    async def upload(self, credential: Credential, submission: Submission) -> str | None:  # noqa: ARG002
        return None

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:  # noqa: ARG002
        return None

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        assert file_id is None, "there are no files"
        what = f"create of {submission.batch_id}"
        scalars = {"endpoint": submission.endpoint, "model": submission.model}
        head = json.dumps(scalars)[:-1] + ', "requests": ['
        body = json_input(submission, head.encode(), b"]}")
        return self._batch(
            what, await self._calls.create(what, credential, _PATH, submission, body)
        )

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,
        input_file_id: str | None = None,  # noqa: ARG002
    ) -> Sequence[ProviderBatch]:
        """Return the workspace's batches since `created_after`, whosever they are."""
        return await created_since(
            self._calls,
            credential,
            created_after,
            what=f"search for {batch_id}",
            path=_PATH,
            cursor="after",
            read=self._ours,
        )

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        """Ask for the status; the results of a batch that has ended go by unread."""
        what = f"retrieve of {provider_batch_id}"
        cutter = ItemCutter(_RESULTS, _unread)
        stream = self._calls.stream(what, credential, _place(provider_batch_id))
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                cutter.feed(chunk)
        cutter.end()
        return self._batch(what, bytes(cutter.outline))

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:  # noqa: ARG002
        raise ProviderRejectedError(f"{provider_batch_id}: this provider stops no batch")

    def results(
        self, credential: Credential, file_id: str
    ) -> AsyncGenerator[Sequence[ResultLine], None]:
        stream = self._calls.stream(f"results of {file_id}", credential, _place(file_id))
        return cut(stream, ItemCutter(_RESULTS))

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        await self._calls.delete(f"delete of {file_id}", credential, _place(file_id))

    def _batch(self, what: str, raw: bytes) -> ProviderBatch:
        return _wire.expected(self._ours(_wire.json_value(raw)), what, "a batch")

    def _ours(self, value: object) -> ProviderBatch | None:
        batch = read_batch(value)
        if batch is None:
            return None
        return provider_batch(batch, window=self._window, now=self._clock.now())


def _unread(item: bytes) -> ResultLine:  # noqa: ARG001
    return ResultLine(kind=LineKind.UNREADABLE, custom_id=None)


def _place(provider_batch_id: str) -> str:
    return f"{_PATH}/{_wire.id_segment(provider_batch_id)}"
