"""A call becomes a job once, durable, in the right lane, or is refused before that."""

import json
from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest
from structlog.testing import capture_logs

from policies.fields import Run
from proxy.core.body import parse_body
from proxy.core.dialects import DIALECTS, Place, credential_hash, presented_credential
from proxy.core.errors import AcceptUnclearError, CallerError, OverloadedError
from proxy.core.ids import JobId, is_job_id, shard_of
from proxy.core.job import AnswerMode
from proxy.core.lanes import Lane
from proxy.core.repeats import WAITER_LEASE, with_body
from proxy.ports.provider import BatchLimits, Provider
from proxy.services.callers.accounts import Accounts, CredentialVerdict
from proxy.services.callers.owners import Owners
from proxy.services.callers.quota import Limits
from proxy.services.deferral.accept import (
    CHOICE_HOLDS_S,
    Acceptor,
    DeferralSettings,
)
from proxy.services.deferral.keys import IdempotencyKeys
from proxy.services.deferral.terms import DeferredCall, Terms, fingerprint_of
from proxy.stores.redis import keys
from tests.helpers.factories import T0, IdFactory
from tests.helpers.fakes import FakeClock, FakeHash, MemoryStores
from tests.helpers.outlook import make_outlook
from tests.helpers.redis_server import opened, redis_server

OPENAI = DIALECTS["openai"]
CHAT = "/v1/chat/completions"
BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"canary prompt"}]}'


class OnlyLimits:
    """Of a provider only what acceptance asks for."""

    batch_models = None

    def limits(self, endpoint):
        return BatchLimits(
            max_requests=10,
            max_bytes=10_000,
            max_line_bytes=2_000,
            batch_models=self.batch_models,
        )


class World:
    def __init__(self, *, settings=None, limits=None, names=None, stores=None):
        self.stores = stores or MemoryStores()
        self.clock = FakeClock(T0)
        self.session = "first"
        self.ids = IdFactory()
        self.owners = Owners(keyed_hash=FakeHash(), names=names or {})
        self.settings = settings or DeferralSettings()
        self.accounts = Accounts(
            credentials=self.stores.credentials,
            jobs=self.stores.jobs,
            clock=self.clock,
            verify=self._verify,
            limits=limits or Limits(),
        )
        self.outlook = make_outlook(self.stores, self.clock, cast("Provider", OnlyLimits()))
        self.acceptor = self.make_acceptor()

    @property
    def keys(self):
        return IdempotencyKeys(
            runs=self.stores.runs,
            keyed_hash=FakeHash(),
            clock=self.clock,
            session=self.session,
        )

    def make_acceptor(self):
        return Acceptor(
            jobs=self.stores.jobs,
            outlook=self.outlook,
            keys=self.keys,
            providers={"openai": cast("Provider", OnlyLimits())},
            accounts=self.accounts,
            clock=self.clock,
            random=self.ids.random,
            settings=self.settings,
        )

    async def _verify(self, credential):
        return CredentialVerdict.UNKNOWN

    def call(self, body=BODY, *, token="sk-canary-1", headers=(), target=CHAT, **changes):
        upstream = changes.pop("upstream", "openai")
        if token is not None:
            headers = ((b"authorization", f"Bearer {token}".encode()), *headers)
        caller = self.owners.identify(presented_credential(OPENAI, headers), upstream)
        endpoint = OPENAI.endpoints[CHAT]
        parsed = parse_body(body, max_bytes=10_000)
        terms = Terms(
            caller=caller,
            dialect=OPENAI,
            endpoint=endpoint,
            target=target,
            headers=headers,
            answer=AnswerMode.JOB,
            decided_by="header:x-deferrable",
        )
        return DeferredCall(
            terms=replace(terms, **changes),
            admitted=self.acceptor.admit(parsed, Place(endpoint), upstream=upstream),
            fingerprint=with_body(
                fingerprint_of(caller, OPENAI, target=target, headers=headers), body
            ),
        )

    async def accept(self, *args, **kwargs):
        return await self.acceptor.accept(self.call(*args, **kwargs))


@pytest.fixture
def world():
    return World()


async def test_a_call_becomes_a_durable_job_with_all_that_running_it_needs(world):
    headers = ((b"OpenAI-Beta", b"x=1"), (b"OpenAI-Organization", b"org"), (b"X-Secret", b"s"))

    acceptance = await world.accept(headers=headers, tags={"team": "etl"}, retry_count=1)

    job = acceptance.job
    assert acceptance.created
    assert is_job_id(job.id)
    assert await world.stores.jobs.get(job.id) == job
    assert await world.stores.jobs.body(job.id) == BODY
    assert (job.key.upstream, job.key.endpoint, job.key.model) == ("openai", CHAT, "gpt-4o-mini")
    assert (job.target, job.tags, job.headers) == (CHAT, {"team": "etl"}, {"openai-beta": "x=1"})
    assert job.deadline == T0 + timedelta(hours=26)
    assert job.lane is job.key.lane is Lane.BATCH
    assert job.body_bytes == len(BODY)
    assert job.tokens > 0
    credential = await world.stores.credentials.get(job.key.credential)
    assert dict(credential.headers) == {
        "authorization": "Bearer sk-canary-1",
        "openai-organization": "org",
    }


@pytest.mark.parametrize(
    ("batch_models", "lane"),
    [
        ({"gpt-4o-mini": "mini-batch"}, Lane.BATCH),
        ({"other": "gpt-4o-mini"}, Lane.BATCH),
        ({}, Lane.INTERACTIVE),
        ({"other": "mini-batch"}, Lane.INTERACTIVE),
    ],
)
async def test_what_has_no_batch_deployment_is_not_batched(world, monkeypatch, batch_models, lane):
    monkeypatch.setattr(OnlyLimits, "batch_models", batch_models)

    job = (await world.accept()).job

    assert job.lane is lane
    assert job.key.model == "gpt-4o-mini"


async def test_a_job_is_not_to_be_claimed_while_its_caller_is_being_answered(world):
    job = (await world.accept()).job

    for passed, claimed in [(timedelta(0), None), (WAITER_LEASE, job.id)]:
        now = T0 + passed
        claim = world.stores.deliveries.claim(job.owner, job.fingerprint, retry_count=0, now=now)
        assert await claim == claimed


async def test_two_equal_calls_are_two_jobs(world):
    first, second = await world.accept(), await world.accept()

    assert first.job.id != second.job.id
    assert first.job.fingerprint == second.job.fingerprint
    assert shard_of(first.job.id) == shard_of(second.job.id)


async def test_different_calls_spread_over_the_shards(world):
    bodies = [BODY.replace(b"canary", str(n).encode()) for n in range(40)]

    shards = {shard_of((await world.accept(body)).job.id) for body in bodies}

    assert len(shards) > 15


@pytest.mark.parametrize(
    "change",
    [
        {"token": "sk-other"},
        {"upstream": "other"},
        {"target": CHAT + "?x=1"},
        {"headers": ((b"openai-project", b"p"),)},
        {"headers": ((b"openai-beta", b"b"),)},
        {"body": BODY + b" "},
    ],
)
def test_a_call_that_may_be_answered_otherwise_has_another_fingerprint(world, change):
    assert world.call(**change).fingerprint != world.call().fingerprint


def test_what_an_sdk_says_of_itself_is_no_part_of_the_fingerprint(world):
    headers = ((b"x-stainless-retry-count", b"1"), (b"user-agent", b"x"))

    assert world.call(headers=headers).fingerprint == world.call().fingerprint


async def test_a_deadline_may_be_relative_or_absolute(world):
    asked = [timedelta(hours=2), T0 + timedelta(hours=3)]
    got = [(await world.accept(deadline=each)).job.deadline - T0 for each in asked]

    assert got == [timedelta(hours=2), timedelta(hours=3)]


async def test_a_job_near_its_deadline_takes_no_batch(world):
    job = (await world.accept(deadline=timedelta(minutes=10))).job

    assert job.lane is job.key.lane is Lane.INTERACTIVE
    assert "10m to the deadline" in job.lane_reason


async def test_an_upstream_without_batches_runs_the_job_directly(world):
    job = (await world.accept(upstream="vllm")).job

    assert job.lane is Lane.INTERACTIVE


async def test_a_rule_may_prefer_the_direct_call(world):
    job = (await world.accept(lane=Lane.INTERACTIVE, decided_by="rule:urgent")).job

    assert job.lane is job.key.lane is Lane.INTERACTIVE
    assert job.lane_reason == "preferred by rule:urgent"


async def test_a_query_that_a_batch_could_not_carry_runs_the_job_directly(world):
    job = (await world.accept(target=CHAT + "?api-version=1")).job

    assert job.lane is Lane.INTERACTIVE
    assert "query" in job.lane_reason


async def test_a_model_that_the_provider_refused_in_batches_runs_directly_for_a_while(world):
    first = (await world.accept()).job
    await world.stores.unbatchable.note(
        first.key.credential, CHAT, "gpt-4o-mini", until=T0 + timedelta(hours=1)
    )
    await world.outlook.experience.run_once()

    assert (await world.accept()).job.lane is Lane.INTERACTIVE
    assert (await world.accept(token="sk-other")).job.lane is Lane.BATCH
    world.clock.advance(hours=1)
    assert (await world.accept()).job.lane is Lane.BATCH


async def test_a_job_of_a_paused_credential_says_so(world):
    first = (await world.accept()).job
    await world.stores.credentials.pause(first.key.credential, at=T0, status=401, body=b"")
    await world.accounts.run_once()
    world.clock.advance(minutes=5)

    job = (await world.accept()).job

    assert job.lane is Lane.BATCH
    assert "refuses the credential since 5m" in job.lane_reason


async def test_the_same_key_and_call_is_the_same_job(world):
    first = await world.accept(idempotency_key="k")
    second = await world.accept(idempotency_key="k")

    assert second.job.id == first.job.id
    assert (first.created, second.created) == (True, False)


async def test_the_same_key_for_another_call_is_refused(world):
    await world.accept(idempotency_key="k")

    with pytest.raises(CallerError) as refusal:
        await world.accept(BODY.replace(b"canary", b"other"), idempotency_key="k")

    assert refusal.value.http_status == 422
    assert refusal.value.code == "idempotency_key_reused"


async def test_a_known_key_leads_to_its_job_when_nothing_more_may_be_pending():
    world = World(limits=Limits(owner_jobs=1))
    first = await world.accept(idempotency_key="k")

    again = await world.accept(idempotency_key="k")

    assert (again.job, again.created) == (first.job, False)
    with pytest.raises(CallerError) as refusal:
        await world.accept(BODY.replace(b"canary", b"other"), idempotency_key="k")
    assert refusal.value.code == "idempotency_key_reused"
    with pytest.raises(OverloadedError):
        await world.accept(idempotency_key="another")


async def test_asking_for_a_job_by_its_key_takes_nothing_from_what_may_be_pending():
    world = World(limits=Limits(owner_jobs=2))
    for _ in range(5):
        await world.accept(idempotency_key="k")

    assert (await world.accept(idempotency_key="another")).created


async def test_the_id_of_a_job_without_a_credential_is_told_to_its_caller_alone():
    world = World(settings=DeferralSettings(anonymous=frozenset({"vllm"})))
    nobody = {"upstream": "vllm", "token": None, "idempotency_key": "k"}
    job = (await world.accept(**nobody)).job

    with pytest.raises(CallerError) as refusal:
        await world.accept(BODY.replace(b"canary", b"other"), **nobody)

    assert refusal.value.http_status == 422
    assert job.id not in refusal.value.message


async def test_a_key_is_its_owners_alone_and_is_not_stored_in_clear(world):
    first = await world.accept(idempotency_key="k")
    other = await world.accept(idempotency_key="k", token="sk-other")

    assert other.created
    assert other.job.id != first.job.id
    key = world.keys.given(world.call(idempotency_key="canary-key").terms)
    assert "canary" not in key


async def test_a_run_that_starts_again_finds_its_jobs_in_order(world):
    texts = [b"a", b"b", b"a", b"a"]
    calls = [BODY.replace(b"canary", text) for text in texts]
    first = [(await world.accept(body, run=Run("r"))).job.id for body in calls]
    world.session = "second"
    world.acceptor = world.make_acceptor()

    again = [await world.accept(body, run=Run("r")) for body in calls]
    further = await world.accept(calls[0], run=Run("r"))

    assert len(set(first)) == 4
    assert [each.job.id for each in again] == first
    assert further.created


async def test_a_session_goes_on_counting_at_any_instance_and_the_next_one_begins_anew(world):
    first = await world.accept(run=Run("r", "one"))
    world.session = "of another instance"
    world.acceptor = world.make_acceptor()

    second = await world.accept(run=Run("r", "one"))
    again = [(await world.accept(run=Run("r", "two"))).job.id for _ in range(2)]

    assert second.created
    assert again == [first.job.id, second.job.id]


async def test_a_call_that_is_turned_away_is_no_occurrence_of_its_run():
    world = World(limits=Limits(owner_jobs=1))
    kept = await world.accept(BODY.replace(b"canary", b"other"))
    with pytest.raises(OverloadedError):
        await world.accept(run=Run("r", "one"))
    world.accounts = Accounts(
        credentials=world.stores.credentials,
        jobs=world.stores.jobs,
        clock=world.clock,
        verify=world._verify,
        limits=Limits(),
    )
    world.acceptor = world.make_acceptor()

    later = await world.accept(run=Run("r", "one"))
    resumed = await world.accept(run=Run("r", "two"))

    assert kept.job.id != later.job.id == resumed.job.id


async def test_in_a_run_too_a_key_stands_for_one_job(world):
    calls = [await world.accept(run=Run("r"), idempotency_key="k") for _ in range(2)]

    assert [call.created for call in calls] == [True, False]


async def test_runs_and_owners_count_apart(world):
    ids = {
        (await world.accept(run=Run("r"))).job.id,
        (await world.accept(run=Run("s"))).job.id,
        (await world.accept(run=Run("r"), token="sk-other")).job.id,
        (await world.accept()).job.id,
    }

    assert len(ids) == 4


async def test_a_key_and_a_run_cannot_be_mistaken_for_each_other(world):
    call = world.call()
    run = await world.accept(run=Run("r"))

    key = await world.accept(idempotency_key=f"run:r:{call.fingerprint}:1")

    assert key.job.id != run.job.id


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"idempotency_key": "k"}, {"idempotency_key": "k"}),
        ({"run": Run("r", "one")}, {"run": Run("r", "two")}),
    ],
)
async def test_what_a_version_without_names_in_fingerprints_made_is_found(world, before, after):
    def named(body=BODY):
        call = world.call(body, **after)
        return call._replace(fingerprint=f"named {call.fingerprint}", unnamed=call.fingerprint)

    made = await world.accept(**before)

    again = await world.acceptor.accept(named())

    assert (again.job.id, again.created) == (made.job.id, False)
    if "idempotency_key" in after:
        with pytest.raises(CallerError, match="stands for another call"):
            await world.acceptor.accept(named(BODY.replace(b"canary", b"other")))


async def test_without_a_credential_nothing_is_deferred_unless_configured(world):
    with pytest.raises(CallerError) as refusal:
        await world.accept(token=None, upstream="vllm")
    assert refusal.value.code == "credential_required"

    open_world = World(settings=DeferralSettings(anonymous=frozenset({"vllm"})))
    job = (await open_world.accept(token=None, upstream="vllm")).job
    assert await open_world.stores.credentials.get(job.key.credential) is not None


async def test_of_two_credentials_that_differ_none_is_billed(world):
    headers = ((b"Authorization", b"Bearer sk-1"), (b"authorization", b"Bearer sk-2"))

    with pytest.raises(CallerError, match="two values that differ") as refusal:
        await world.accept(headers=headers)

    assert (refusal.value.code, refusal.value.param) == ("bad_header", "authorization")
    assert "sk-" not in refusal.value.message


def jwt(expires_at):
    parts = ({"alg": "RS256"}, {"exp": int(expires_at.timestamp())})
    encoded = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2ln"])


async def test_a_token_that_ends_before_the_deadline_cannot_defer(world):
    token = jwt(T0 + timedelta(hours=5))

    with pytest.raises(CallerError, match="expires at 2026-11-23T17:00:00Z") as refusal:
        await world.accept(token=token)

    assert refusal.value.code == "credential_expires"
    assert (await world.accept(token=token, deadline=timedelta(hours=5))).created


async def test_an_unknown_webhook_and_one_of_others_are_refused_alike():
    settings = DeferralSettings(webhooks={"all": None, "etl-only": frozenset({"etl"})})
    world = World(settings=settings, names={credential_hash("sk-etl"): "etl"})

    for name in ("nowhere", "etl-only"):
        with pytest.raises(CallerError) as refusal:
            await world.accept(webhook=name)
        assert refusal.value.code == "unknown_webhook"
        assert refusal.value.message == (
            f"X-Deferrable-Webhook: no webhook '{name}' is configured for this caller"
        )

    assert (await world.accept(webhook="all")).job.webhook == "all"
    assert (await world.accept(webhook="etl-only", token="sk-etl")).job.webhook == "etl-only"


async def test_where_jobs_are_not_kept_only_held_calls_are_deferred():
    world = World(settings=DeferralSettings(ephemeral=True))

    with pytest.raises(CallerError, match="X-Deferrable: wait"):
        await world.accept()
    assert (await world.accept(answer=AnswerMode.WAIT)).created


async def test_beyond_the_pool_of_the_unverified_nothing_is_written():
    world = World(limits=Limits(unverified_jobs=1))
    await world.accept()

    with pytest.raises(OverloadedError):
        await world.accept()

    pending = await world.stores.jobs.pending()
    assert [each.jobs for each in pending.values()] == [1]


def test_a_body_beyond_the_line_of_the_providers_batches_is_refused(world):
    long = BODY.replace(b"canary", b"x" * 2_000)

    with pytest.raises(CallerError) as refusal:
        world.call(long)

    assert refusal.value.code == "request_too_large"
    assert world.call(long, upstream="vllm").admitted.line_body == long


async def test_of_a_held_call_one_line_is_logged_that_tells_neither_prompt_nor_token(world):
    with capture_logs() as logs:
        await world.accept()  # Whose call is answered, and so logged, at once.
        job = (await world.accept(answer=AnswerMode.WAIT)).job

    (line,) = logs
    assert line["event"] == "job.accepted"
    assert (line["job_id"], line["lane"]) == (job.id, "batch")
    assert "canary" not in str(line)


async def test_alike_calls_are_given_one_lane_until_something_is_learned(world):
    call = world.call()
    key = (await world.acceptor.accept(call)).job.key
    looked = []
    facts = world.outlook.facts

    def look(*_, **__):
        looked.append(1)
        return facts(key)

    world.outlook.facts = look
    assert (await world.acceptor.accept(call)).job.lane is Lane.BATCH
    assert not looked

    await world.outlook.experience.note_unbatchable(key)
    assert (await world.acceptor.accept(call)).job.lane is Lane.INTERACTIVE
    assert len(looked) == 1

    world.clock.advance(seconds=CHOICE_HOLDS_S)
    await world.acceptor.accept(call)
    assert len(looked) == 2


async def test_what_is_not_alike_has_a_lane_of_its_own(world):
    far = world.call()
    await world.acceptor.accept(far)

    far.terms.deadline = timedelta(minutes=5)
    assert (await world.acceptor.accept(far)).job.lane is Lane.INTERACTIVE
    other = far._replace(admitted=replace(far.admitted, model="other"))
    assert (await world.acceptor.accept(other)).job.key.model == "other"
    unfit = other._replace(admitted=replace(other.admitted, fits_a_batch=False))
    reason = (await world.acceptor.accept(unfit)).job.lane_reason
    assert reason == "a batch refuses a field of the body"


@pytest.mark.redis
async def test_after_damage_that_the_store_meets_amid_its_work_the_job_may_exist(tmp_path):
    with redis_server(tmp_path) as server:
        async with opened(server.url) as stores:
            world = World(stores=stores)
            call = world.call()
            first = (await world.acceptor.accept(call)).job
            name = keys.key_digest(first.key)
            server.admin.hset(keys.heads(shard_of(first.id)), name, b"damaged")

            # As where the answer was lost: a call that is made all the same takes it back.
            with pytest.raises(AcceptUnclearError) as unclear:
                await world.acceptor.accept(call)

            assert await stores.jobs.get(JobId(unclear.value.job_id))
