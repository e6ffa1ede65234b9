"""OpenRouter's batches.

The input goes inline with the create, behind its scalar fields, which the server reads as
they come. A batch keeps no name of ours, cannot be stopped, and has its results in itself.
So after an ambiguous create it is known by time and size alone until they can be read.

Sources: OpenRouter, "Batch API Quickstart" and API reference; types of its Python SDK.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from proxy.core.errors import ProviderRejectedError
from proxy.ports.jobs import Credential
from proxy.ports.provider import LineKind, ProviderBatch, ResultLine, Submission
from proxy.providers.inline import InlineBatches
from proxy.providers.inputs import Input, json_input
from proxy.providers.item_cutter import ItemCutter
from proxy.providers.openrouter_objects import provider_batch, read_batch
from proxy.providers.result_lines import cut

_RESULTS: Final = "results"


class OpenRouterBatches(InlineBatches):
    """The batch API of one upstream that speaks OpenRouter's dialect."""

    path = "/v1/batches"
    member = b"body"
    cursor = "after"

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        """Ask for the status; the results of a batch that has ended go by unread."""
        what = f"retrieve of {provider_batch_id}"
        cutter = ItemCutter(_RESULTS, _unread)
        stream = self._calls.stream(what, credential, self._place(provider_batch_id))
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
        stream = self._calls.stream(f"results of {file_id}", credential, self._place(file_id))
        return cut(stream, ItemCutter(_RESULTS))

    def _input(self, submission: Submission) -> Input:
        scalars = {"endpoint": submission.endpoint, "model": submission.model}
        head = json.dumps(scalars)[:-1] + ', "requests": ['
        return json_input(submission, head.encode(), b"]}")

    def _read(self, value: object) -> ProviderBatch | None:
        batch = read_batch(value)
        if batch is None:
            return None
        return provider_batch(batch, window=self._window, now=self._clock.now())


def _unread(item: bytes) -> ResultLine:  # noqa: ARG001
    return ResultLine(kind=LineKind.UNREADABLE, custom_id=None)
