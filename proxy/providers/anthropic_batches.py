"""Anthropic's Message Batches.

The input goes inline with the create; there are no files. A batch has no name and
no metadata, so after an ambiguous create all that can be told of a candidate is
when it was created and how many requests it has. Whose it is shows only in the
custom IDs of its results, which can be read once it has ended.

Sources: Anthropic, "Batch processing" guide; types of the Anthropic SDK 2.12.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Final

from proxy.core.dialects import ANTHROPIC_VERSION, BatchApi
from proxy.core.ids import BatchId
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import BatchLimits, ProviderBatch, ResultLine, Submission
from proxy.ports.upstream import UpstreamClient
from proxy.providers import _wire
from proxy.providers.anthropic_lines import result_line
from proxy.providers.anthropic_objects import provider_batch, read_batch
from proxy.providers.calls import Calls
from proxy.providers.inputs import json_input, list_item
from proxy.providers.result_lines import LineCutter, cut
from proxy.providers.searches import created_since

_PATH: Final = "/v1/messages/batches"


class AnthropicBatches:
    """The batch API of one upstream that speaks Anthropic's dialect.

    `client` is used and not closed. The results of a batch go by its own ID, for
    `results` and `delete_file` alike.
    """

    def __init__(
        self, upstream: Upstream, api: BatchApi, client: UpstreamClient, *, clock: Clock
    ) -> None:
        self._limits = BatchLimits.of(api)
        self._calls = Calls(upstream, client, clock, {"anthropic-version": ANTHROPIC_VERSION})
        self._clock = clock

    def limits(self, endpoint: str) -> BatchLimits:  # noqa: ARG002
        return self._limits

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:  # noqa: ARG002
        return list_item(custom_id, b"params")

    async def upload(self, credential: Credential, submission: Submission) -> str | None:  # noqa: ARG002
        return None

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:  # noqa: ARG002
        return None

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        assert file_id is None, "there are no files"
        what = f"create of {submission.batch_id}"
        body = json_input(submission, b'{"requests":[', b"]}")
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
        """Return the account's batches since `created_after`, whosever they are."""
        return await created_since(
            self._calls,
            credential,
            created_after,
            what=f"search for {batch_id}",
            path=_PATH,
            cursor="after_id",
            read=self._ours,
        )

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"retrieve of {provider_batch_id}"
        raw = await self._calls.call(what, credential, "GET", _place(provider_batch_id))
        return self._batch(what, raw)

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"cancel of {provider_batch_id}"
        raw = await self._calls.call(
            what, credential, "POST", f"{_place(provider_batch_id)}/cancel"
        )
        return self._batch(what, raw)

    def results(
        self, credential: Credential, file_id: str
    ) -> AsyncGenerator[Sequence[ResultLine], None]:
        # Not the `results_url` that a batch names: credentials go to our upstream alone.
        stream = self._calls.stream(
            f"results of {file_id}", credential, f"{_place(file_id)}/results"
        )
        return cut(stream, LineCutter(result_line))

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        await self._calls.delete(f"delete of {file_id}", credential, _place(file_id))

    def _batch(self, what: str, raw: bytes) -> ProviderBatch:
        return _wire.expected(self._ours(_wire.json_value(raw)), what, "a batch")

    def _ours(self, value: object) -> ProviderBatch | None:
        batch = read_batch(value)
        if batch is None:
            return None
        return provider_batch(batch, now=self._clock.now())


def _place(provider_batch_id: str) -> str:
    return f"{_PATH}/{_wire.id_segment(provider_batch_id)}"
