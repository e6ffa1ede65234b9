"""Anthropic's Message Batches.

The input goes inline with the create; there are no files. A batch has no name and
no metadata, so after an ambiguous create all that can be told of a candidate is
when it was created and how many requests it has. Whose it is shows only in the
custom IDs of its results, which can be read once it has ended.

Sources: Anthropic, "Batch processing" guide; types of the Anthropic SDK 2.12.
"""

from collections.abc import AsyncGenerator, Sequence

from proxy.core.dialects import ANTHROPIC_VERSION, BatchApi
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import ProviderBatch, ResultLine, Submission
from proxy.ports.upstream import UpstreamClient
from proxy.providers.anthropic_lines import result_line
from proxy.providers.anthropic_objects import provider_batch, read_batch
from proxy.providers.inline import InlineBatches
from proxy.providers.inputs import Input, json_input
from proxy.providers.result_lines import LineCutter, cut


class AnthropicBatches(InlineBatches):
    """The batch API of one upstream that speaks Anthropic's dialect."""

    path = "/v1/messages/batches"
    member = b"params"
    cursor = "after_id"

    def __init__(
        self, upstream: Upstream, api: BatchApi, client: UpstreamClient, *, clock: Clock
    ) -> None:
        version = {"anthropic-version": ANTHROPIC_VERSION}
        super().__init__(upstream, api, client, clock=clock, headers=version)

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"retrieve of {provider_batch_id}"
        raw = await self._calls.call(what, credential, "GET", self._place(provider_batch_id))
        return self._batch(what, raw)

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"cancel of {provider_batch_id}"
        place = f"{self._place(provider_batch_id)}/cancel"
        return self._batch(what, await self._calls.call(what, credential, "POST", place))

    def results(
        self, credential: Credential, file_id: str
    ) -> AsyncGenerator[Sequence[ResultLine], None]:
        # Not the `results_url` that a batch names: credentials go to our upstream alone.
        place = f"{self._place(file_id)}/results"
        stream = self._calls.stream(f"results of {file_id}", credential, place)
        return cut(stream, LineCutter(result_line))

    def _input(self, submission: Submission) -> Input:
        return json_input(submission, b'{"requests":[', b"]}")

    def _read(self, value: object) -> ProviderBatch | None:
        batch = read_batch(value)
        return None if batch is None else provider_batch(batch, now=self._clock.now())
