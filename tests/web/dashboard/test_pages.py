"""The pages as a browser gets them: what they say, what they never say, and who may look."""

import hashlib
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from importlib import resources

import pytest
from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer

from policies.conditions import INTERACTIVE, Divert, Refuse, Rule, Sample
from policies.policy import Policy
from policies.rules import RuleSet
from proxy.core.errors import StoreUnavailableError
from proxy.core.ids import CredentialId, OwnerId
from proxy.core.job import Failed, Outcome, Succeeded, advance
from proxy.core.ledger import Booking, LedgerKey, Receipt, Sums
from proxy.core.prices import Cost
from proxy.core.turnaround import USUAL_BATCH
from proxy.ports.jobs import JobWrite, Result
from proxy.services.insight import Insight, counts_of
from proxy.services.search import JOBS_PER_PAGE
from proxy.telemetry import Metrics
from proxy.web.dashboard.about import About
from proxy.web.dashboard.pages import add_dashboard
from proxy.web.operators.guard import AdminAccess, guard
from tests.contract.steps import OK
from tests.helpers.factories import IDS, T0, make_batch, make_key, new_job
from tests.helpers.fleet import Fleet

TOKEN = "an-admin-token"
HOSTILE = '<script>alert("x")</script>'
PAGES = ("", "/jobs", "/batches", "/rules", "/providers", "/webhooks")
HOUR = timedelta(hours=1)


class Desk:
    """The dashboard over stores in memory, and a client that looks at it."""

    def __init__(self, client, fleet, metrics):
        self.client, self.fleet, self.metrics = client, fleet, metrics
        self.stores = fleet.stores

    async def look(self, place="", *, expected=200, **query):
        async with self.client.get(f"/dashboard{place}", params=query) as answer:
            assert answer.status == expected, await answer.text()
            return await answer.text()

    async def accepted(self, **changes):
        return (await self.stores.jobs.accept(new_job(**changes))).job

    async def ended(self, job, event, result=None):
        await self.stores.jobs.replace_many([JobWrite(advance(job, event), result)])


@asynccontextmanager
async def desk(*, token=None, loopback=None, rules=None, now=T0):
    fleet, metrics = Fleet(), Metrics(strict=True)
    policy = Policy(RuleSet(rules)) if rules is not None else None
    insight = Insight(
        fleet.instances[0].ground,
        ledger=fleet.stores.ledger,
        counts=counts_of(metrics),
        expects=lambda _key, _at: USUAL_BATCH,
        policy=None if policy is None else lambda: policy,
        webhooks=["done"],
    )
    access = AdminAccess(
        allowed_hosts=("127.0.0.1",),
        loopback=token is None if loopback is None else loopback,
        token=token,
    )
    application = web.Application(middlewares=[guard(access, lambda: now)])
    about = About(
        instance="instance-1",
        store="sqlite",
        durability="durable",
        is_durable=True,
        is_ephemeral=False,
        base_url="http://127.0.0.1:8080",
        webhook_hosts={"done": "hooks.example"},
        upstreams={"openai"},
    )
    add_dashboard(application, insight, access=access, about=about)
    # The jar of a browser, which takes cookies of addresses too.
    jar = CookieJar(unsafe=True)
    async with TestClient(TestServer(application), cookie_jar=jar) as client:
        yield Desk(client, fleet, metrics)


@pytest.mark.parametrize("place", PAGES)
async def test_every_page_of_a_fresh_install_teaches_something(place):
    async with desk() as here:
        text = await here.look(place)

    assert '<section class="teach">' in text or place == "/webhooks"


async def test_a_fresh_install_shows_how_to_tag_a_call_at_this_very_proxy():
    async with desk() as here:
        text = await here.look()

    assert "http://127.0.0.1:8080/v1" in text
    assert "X-Deferrable" in text


@pytest.mark.parametrize("place", [*PAGES, "/jobs/nothing", "/style.css"])
async def test_every_page_lets_a_browser_load_nothing_from_elsewhere(place):
    async with desk() as here, here.client.get(f"/dashboard{place}") as answer:
        text = await answer.text()
        headers = answer.headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "<script" not in text
    assert " style=" not in text
    if answer.content_type == "text/html":
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"


async def test_the_overview_shows_what_was_saved_what_waits_and_what_is_wrong():
    async with desk() as here:
        await here.fleet.add_credential("credential-1")
        await here.stores.credentials.pause(
            CredentialId("credential-1"), at=T0, status=401, body=b"canary"
        )
        await here.accepted()
        key = LedgerKey(
            day=T0.date(), lane="batch", upstream="openai", model="gpt-9", rule="header"
        )
        sums = Sums(jobs=4, answers=4, list_nano=8 * 10**9, paid_nano=3 * 10**9, unpriced=1)
        receipt = Receipt(id="r", job_id=IDS.job(), bookings=(Booking(key, sums),))
        await here.stores.ledger.book([receipt])

        text = await here.look()

    assert "$5.00" in text
    assert "62 % of $8.00" in text
    assert '<bdi>gpt-9</bdi> <span class="faint">openai, 1 without a price</span>' in text
    assert "1 answer without a known price" in text
    assert "openai refuses a credential with 401" in text
    assert "canary" not in text
    assert 'aria-label="Spent and saved a day, $5.00 saved in all"' in text


@pytest.mark.parametrize(
    ("accepted_at", "said"),
    [(T0 - HOUR, "the oldest was ready 1 h ago"), (T0 + HOUR, "the oldest is ready in 1 h")],
)
async def test_the_overview_says_since_when_or_from_when_the_oldest_can_be_sent(accepted_at, said):
    async with desk() as here:
        await here.accepted(accepted_at=accepted_at)

        assert said in await here.look()


async def test_what_callers_wrote_is_text_wherever_it_is_shown():
    async with desk() as here:
        job = await here.accepted(
            key=make_key(model=HOSTILE),
            tags={HOSTILE: HOSTILE},
            decided_by=f"rule:{HOSTILE}",
            lane_reason=HOSTILE,
        )
        await here.ended(job, Failed(0, T0, Outcome(400, HOSTILE, HOSTILE)))
        await here.accepted(key=make_key(model=HOSTILE))
        batch = make_batch(key=make_key(model=HOSTILE), error_code=HOSTILE, error_message=HOSTILE)
        await here.stores.batches.add(batch)
        pages = [
            await here.look(),
            await here.look("/jobs"),
            await here.look("/jobs", q=HOSTILE, owner=HOSTILE, status=HOSTILE),
            await here.look(f"/jobs/{job.id}"),
            await here.look("/batches"),
            await here.look(f"/batches/{batch.id}"),
            await here.look("/jobs/<script>", expected=404),
        ]

    for text in pages:
        assert "<script" not in text


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        (6, "3 answers, 1 expired, 2 failed or cancelled</p>"),
        (4, "3 answers, 1 expired</p>"),
    ],
)
async def test_the_overview_accounts_for_every_job_that_ended(jobs, said):
    async with desk() as here:
        key = LedgerKey(day=T0.date(), lane="batch", upstream="openai", model="m", rule="header")
        booking = Booking(key, Sums(jobs=jobs, answers=3, expired=1))
        receipt = Receipt(id="r", job_id=IDS.job(), bookings=(booking,))
        await here.stores.ledger.book([receipt])

        assert said in await here.look()


@pytest.mark.parametrize("place", ["", "/jobs", "/jobs/JOB", "/batches", "/batches/BATCH"])
async def test_a_model_that_turns_the_direction_of_text_turns_no_more_than_itself(place):
    turning = "\N{RIGHT-TO-LEFT OVERRIDE}m"
    async with desk() as here:
        job = await here.accepted(key=make_key(model=turning))
        batch = make_batch(key=make_key(model=turning))
        await here.stores.batches.add(batch)
        text = await here.look(place.replace("JOB", job.id).replace("BATCH", batch.id))

    assert text.count(turning) == text.count(f"<bdi>{turning}</bdi>") > 0


async def test_half_a_character_of_a_caller_breaks_no_page():
    async with desk() as here:
        job = await here.accepted(key=make_key(model="m\ud800"), tags={"run": "\udfff"})
        pages = [await here.look(place) for place in (*PAGES, f"/jobs/{job.id}")]

    assert any("m?" in text for text in pages)


async def test_neither_prompt_nor_result_nor_credential_is_shown_anywhere():
    async with desk() as here:
        await here.fleet.add_credential("sk-canary-1")
        job = await here.accepted(
            body=b'{"model":"gpt-4o-mini","messages":[{"content":"canary prompt"}]}'
        )
        await here.ended(job, Succeeded(0, T0, OK), Result(status_code=200, body=b"canary result"))
        pages = [await here.look(place) for place in (*PAGES, f"/jobs/{job.id}")]

    assert "canary" not in "".join(pages)


async def test_a_job_shows_its_life_its_history_and_where_it_is():
    async with desk() as here:
        job = await here.accepted(tags={"team": "etl"}, webhook="done")
        await here.ended(job, Succeeded(0, T0 + HOUR, OK))

        text = await here.look(f"/jobs/{job.id}")

    assert "accepted, decided by header" in text
    assert "team=etl" in text
    assert 'class="life"' in text
    assert 'class="states"' in text
    assert "queued to completed: Succeeded" in text


async def test_a_job_that_is_not_there_says_so():
    async with desk() as here:
        text = await here.look(f"/jobs/{IDS.job()}", expected=404)
        assert "No such job" in text
        assert "No such batch" in await here.look("/batches/nothing", expected=404)


async def test_jobs_are_searched_and_paged_by_links():
    async with desk() as here:
        for n in range(JOBS_PER_PAGE + 1):
            await here.accepted(accepted_at=T0 - n * HOUR, tags={"n": str(n)})
        text = await here.look("/jobs", q="n=3")
        assert text.count('data-label="job"') == 1
        assert "No such job" in await here.look("/jobs", q="n=none")

        first = await here.look("/jobs", q="gpt")
        assert first.count('data-label="job"') == JOBS_PER_PAGE
        query = first.partition('class="more" href="?')[2].partition('"')[0].replace("&amp;", "&")
        async with here.client.get(f"/dashboard/jobs?{query}") as answer:
            second = await answer.text()
        assert second.count('data-label="job"') == 1


async def test_a_page_after_what_is_no_job_begins_at_the_newest():
    async with desk() as here:
        await here.accepted()
        for after in ("nothing", "job_1", HOSTILE):
            assert 'data-label="job"' in await here.look("/jobs", after=after)


async def test_a_job_says_what_it_cost_or_that_nobody_knows():
    async with desk() as here:
        known, unknown = await here.accepted(), await here.accepted()
        cost = Cost(list_nano=4 * 10**9, paid_nano=2 * 10**9)
        await here.ended(known, Succeeded(0, T0, replace(OK, cost=cost)))
        await here.ended(unknown, Succeeded(0, T0, OK))

        assert "$2.00 instead of $4.00" in await here.look(f"/jobs/{known.id}")
        assert "not known" in await here.look(f"/jobs/{unknown.id}")


async def test_owners_are_chosen_among_where_there_are_several():
    async with desk() as here:
        await here.accepted(owner=OwnerId("team-a"))
        assert '<select name="owner"' not in await here.look("/jobs")
        await here.accepted(owner=OwnerId("team-b"))

        text = await here.look("/jobs", owner="team-b")

    assert '<option value="team-b" selected>' in text
    assert text.count('data-label="job"') == 1


async def test_batches_show_their_life_lines():
    async with desk() as here:
        batch = make_batch(
            count=3, submitted_at=T0 + HOUR, ended_at=T0 + 2 * HOUR, nearest_deadline=T0 + 3 * HOUR
        )
        await here.stores.batches.add(batch)

        text = await here.look("/batches")
        one = await here.look(f"/batches/{batch.id}")

    assert "at the provider: 1 h" in text
    assert "took" in one


async def test_rules_show_live_and_shadow_beside_each_other():
    rules = [
        Rule(name="humans", then=INTERACTIVE),
        Rule(name="no", then=Refuse(message="no")),
        Rule(name="etl", then=Divert(deadline=6 * HOUR), sample=Sample(0.25)),
        Rule(name="evals", then=Divert(), shadow=True),
    ]
    async with desk(rules=rules) as here:
        here.metrics.count("rule_matched", 3, rule="etl", mode="live", decision="defer")
        here.metrics.count("rule_matched", 7, rule="evals", mode="shadow", decision="defer")

        text = await here.look("/rules")

    for said in ("defer (wait), due within 6 h", "25 % of them", "refuse with 403", "forward"):
        assert said in text
    assert 'aria-label="3 calls live"' in text
    assert 'aria-label="7 calls shadow"' in text


async def test_an_empty_rule_file_is_told_from_none():
    async with desk(rules=[]) as here:
        assert "The rule file is empty" in await here.look("/rules")


async def test_providers_show_what_batches_really_took():
    async with desk() as here:
        ended = {"submitted_at": T0, "ended_at": T0 + HOUR, "end_reason": "completed"}
        await here.stores.batches.add(make_batch(**ended))

        text = await here.look("/providers")

    assert "<dd>1 h</dd>" in text
    assert 'class="dots"' in text


async def test_webhooks_show_how_each_does_and_nothing_of_its_url_but_the_host():
    async with desk() as here:
        job = await here.accepted(webhook="done")
        await here.ended(job, Succeeded(0, T0, OK))
        (notice,) = await here.stores.notices.take("done", now=T0, until=T0, limit=1)
        await here.stores.notices.failed(notice, at=T0, failure="HTTP 503", again_at=T0 + HOUR)

        text = await here.look("/webhooks")

    assert "hooks.example" in text
    assert "failing" in text
    assert "HTTP 503" in text


@pytest.mark.parametrize("name", ["style.css", "icon.svg"])
async def test_a_page_asks_for_its_files_by_what_they_hold(name):
    content = resources.files("proxy.web.dashboard").joinpath("static", name).read_bytes()
    place = f"/dashboard/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"

    async with desk(token=TOKEN) as here, here.client.get("/login") as answer:
        page = await answer.text()
        async with here.client.get(place) as file:
            served = await file.read()

    assert f'"{place}"' in page
    assert f'/dashboard/{name}"' not in page
    assert served == content


async def test_a_store_that_is_away_is_said_and_is_no_traceback():
    async with desk() as here:

        async def heads():
            raise StoreUnavailableError("the store is away")

        here.stores.batches.heads = heads
        text = await here.look(expected=503)

    assert "the store is away" in text


async def test_a_browser_logs_in_with_the_token_looks_and_logs_out():
    async with desk(token=TOKEN) as here:
        html = {"Accept": "text/html"}
        async with here.client.get("/", headers=html) as answer:
            assert answer.url.path == "/login"
        async with here.client.post("/login", data={"token": "wrong"}) as answer:
            assert answer.status == 401
            assert "That is not the token" in await answer.text()
        async with here.client.post("/login", data={"token": TOKEN}) as answer:
            assert answer.url.path == "/dashboard"
            (cookie,) = answer.history[0].headers.getall("Set-Cookie")
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert "Log out" in await here.look("/jobs")

        async with here.client.post("/logout") as answer:
            assert answer.url.path == "/login"
        async with here.client.get("/dashboard", headers=html) as answer:
            assert answer.url.path == "/login"


async def test_off_loopback_without_a_token_a_browser_is_told_what_is_missing():
    async with desk(loopback=False) as here:
        async with here.client.get("/", headers={"Accept": "text/html"}) as answer:
            page = await answer.text()
            assert (answer.url.path, answer.status) == ("/login", 403)
        async with here.client.post("/login", data={"token": TOKEN}) as answer:
            assert answer.status == 403
            assert "Set-Cookie" not in answer.headers
            assert await answer.text() == page

    assert "admin.token_file" in page
    assert "<form" not in page


async def test_on_loopback_without_a_token_there_is_nothing_to_log_in_to():
    async with desk() as here:
        async with here.client.get("/login") as answer:
            assert answer.url.path == "/dashboard"
        async with here.client.post("/login", data={"token": TOKEN}) as answer:
            assert answer.url.path == "/dashboard"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"token": "an-admin-token"}'),
        ("multipart/form-data", b"token=x"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken"),
        ("application/x-www-form-urlencoded", b"token=\xff"),
        ("application/x-www-form-urlencoded; charset=none", b"token=x"),
        ("application/x-www-form-urlencoded", b"%&=;=&token"),
        # Reading them all would hold up the calls of others.
        ("application/x-www-form-urlencoded", b"a=b&" * 100_000 + b"token=" + TOKEN.encode()),
    ],
    ids=lambda given: str(given)[:40],
)
async def test_a_login_that_is_no_form_is_refused(kind, body):
    async with (
        desk(token=TOKEN) as here,
        here.client.post("/login", data=body, headers={"Content-Type": kind}) as answer,
    ):
        assert answer.status == 401
