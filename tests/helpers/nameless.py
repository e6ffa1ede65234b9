"""A provider whose batches carry no name and whose input goes inline, as at Anthropic."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

from proxy.core.errors import ProviderRejectedError, ProviderUnavailableError
from proxy.core.ids import BatchId
from proxy.ports.jobs import Credential
from proxy.ports.provider import BatchLimits, ProviderBatch, Submission
from tests.helpers.fake_provider import FakeBatch, FakeProvider
from tests.helpers.fleet import Fleet

STRANGER = BatchId("somebody-elses")


class NamelessProvider(FakeProvider):
    """`find_batches` returns whatever the account has; `on_create` runs before each create."""

    on_create: Callable[[], Awaitable[None]] | None = None
    tells_size = True

    def limits(self, endpoint: str) -> BatchLimits:
        return replace(super().limits(endpoint), names_batches=False)

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        return None

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        return None

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        assert file_id is None, "there are no files"
        await self._turn(submission)
        if self.on_create is not None:
            await self.on_create()
        content = b"".join([chunk async for chunk in submission.lines()])
        if len(content) != submission.input_bytes:
            raise ProviderUnavailableError("the input changed while it was read", sent=False)
        self.files["inline"] = (submission.batch_id, content, "")
        return self._counted(await super().create(credential, submission, "inline"))

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,
        input_file_id: str | None = None,
    ) -> Sequence[ProviderBatch]:
        self._before("find_batches", credential)
        token = dict(credential.headers)["authorization"]
        found = []
        for batch in self.batches.values():
            if batch.owner_token == token and batch.created_at >= created_after:
                self._progress(batch)
                found.append(self._counted(self._view(batch)))
        return found

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        assert self.batches[provider_batch_id].ours != STRANGER, "somebody else's was cancelled"
        return await super().cancel(credential, provider_batch_id)

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        batch = self.batches.get(file_id.removeprefix("out-"))
        if batch is None:
            raise ProviderRejectedError("no such batch", status_code=404)
        assert batch.ours != STRANGER, "somebody else's was deleted"
        await super().delete_file(credential, file_id)

    def strangers(self, count: int, *, token: str = "Bearer credential-1") -> FakeBatch:
        """Let another client of the account create a batch of this size, now."""
        batch = FakeBatch(
            id=f"batch_{len(self.batches) + 1}",
            ours=STRANGER,
            owner_token=token,
            lines=[(f"theirs-{n}", b'{"theirs": %d}' % n) for n in range(count)],
            created_at=self._clock.now(),
        )
        self.batches[batch.id] = batch
        return batch

    def _counted(self, view: ProviderBatch) -> ProviderBatch:
        return replace(view, count=len(self.batches[view.id].lines) if self.tells_size else None)


class NamelessFleet(Fleet):
    """A fleet at such a provider, with one instance unless more are asked for."""

    def __init__(self, *, instances: int = 1) -> None:
        super().__init__(instances=0)
        self.nameless = NamelessProvider(self.clock)
        self.provider = self.nameless
        self.instances = [self.born() for _ in range(instances)]
