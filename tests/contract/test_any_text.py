"""Texts of callers are values in every store, whatever they look like: never a statement.

Names, tags, models and keys come from headers and bodies. A store that put one into the
text of a statement, a script or a key would lose, mix up or invent jobs here.
"""

from datetime import timedelta

import pytest

from proxy.core.errors import JobNotFoundError
from proxy.core.ids import CredentialId, OwnerId
from proxy.ports.jobs import JobFilter
from tests.contract.steps import accepted, queued_counts
from tests.helpers.factories import IDS, OWNER, T0, make_credential, make_key, new_job

TEXTS = [
    "'; DROP TABLE jobs; --",
    "' OR '1'='1",
    '" OR 1=1 --',
    "\x00\r\nFLUSHALL\r\n",
    "*",
    "{shard}:{0}",
    "%s%d%n",
    "]]>] return redis.call('FLUSHALL') --",
    "\U0001f4a5",
    "a:b|c,d=e",
]
LOOSE = "\ud800"
"""A half of a character, which JSON can name and no encoding has: in bodies and tags alone."""


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
async def test_a_text_comes_back_and_finds_its_own_job_alone(stores, text):
    key = make_key(
        upstream=text,
        credential=CredentialId(text),
        endpoint=text,
        model=text,
        headers=((text, text),),
    )
    changes = {"key": key, "owner": OwnerId(text), "tags": {text: text}, "decided_by": text}
    mine = await accepted(stores, **changes, webhook=text, affinity=text, target=text)
    others = await accepted(stores)

    where = JobFilter(tag=(text, text))
    assert await stores.jobs.get(mine.id) == mine
    assert await stores.jobs.list_jobs(OwnerId(text), where, after=None, limit=10) == [mine]
    assert await stores.jobs.list_jobs(OWNER, where, after=None, limit=10) == []
    assert await stores.jobs.list_jobs(OWNER, JobFilter(), after=None, limit=10) == [others]
    assert await queued_counts(stores) == {key: 1, others.key: 1}
    assert set(await stores.jobs.pending([OwnerId(text)])) == {OwnerId(text)}


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
async def test_a_text_is_a_key_of_its_own(stores, text):
    once = await stores.jobs.accept(new_job(idempotency_key=text))
    again = await stores.jobs.accept(new_job(idempotency_key=text))
    until = T0 + timedelta(days=1)

    assert (once.created, again.created, again.job.id) == (True, False, once.job.id)
    assert await stores.runs.count(text, now=T0, until=until) == 1
    assert await stores.runs.count(text + "x", now=T0, until=until) == 1
    assert await stores.runs.count(text, now=T0, until=until) == 2


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
async def test_a_credential_of_any_text_is_found_by_it_alone(stores, text):
    credential = make_credential(
        id=CredentialId(text), owner=OwnerId(text), upstream=text, headers=((text, text),)
    )
    await stores.credentials.remember(credential)

    assert await stores.credentials.get(CredentialId(text)) == credential
    assert list(await stores.credentials.of_owner(OwnerId(text), text)) == [credential]
    assert await stores.credentials.get(CredentialId("*")) is None or text == "*"
    assert list(await stores.credentials.of_owner(OWNER, "openai")) == []


async def test_half_a_character_in_a_model_or_a_tag_is_kept(stores):
    job = await accepted(stores, key=make_key(model=LOOSE), tags={LOOSE: LOOSE})

    assert await stores.jobs.get(job.id) == job
    where = JobFilter(tag=(LOOSE, LOOSE))
    assert await stores.jobs.list_jobs(OWNER, where, after=None, limit=10) == [job]


async def test_an_id_that_is_none_of_ours_names_no_job(stores):
    kept = await accepted(stores)

    with pytest.raises(JobNotFoundError):
        await stores.jobs.get(IDS.job())
    assert await stores.jobs.get(kept.id) == kept
