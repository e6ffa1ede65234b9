"""The dashboard in a real browser, of a running proxy with real jobs.

`python -m tests.e2e.picture` makes the picture of the README in the same way.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.app import SystemClock
from proxy.core.ledger import Booking, LedgerKey, Receipt, Sums
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.e2e.processes import Proxy, chat, proxy_and_provider, results
from tests.helpers.browser import DESK, PHONE, Page, browser

TOKEN = "canary-admin-token"
JOB = {"X-Deferrable": "job"}
RULES = """
rules:
  - name: humans-never-wait
    when: {headers: {x-user-facing: "*"}}
    then: interactive
  - name: nightly-etl
    when: {headers: {user-agent: "*etl*"}}
    then: {defer: {deadline: 6h}}
  - name: evals
    when: {headers: {user-agent: "*eval*"}}
    then: {defer: {deadline: 2h}}
    mode: shadow
"""

# What WCAG 2.2 asks for, success criterion 1.4.3: every text against what is behind it.
FAINT_TEXTS = """
(() => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const rgb = (colour, below) => {
    pen.fillStyle = below; pen.fillRect(0, 0, 1, 1);
    pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const light = parts => parts.map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    const path = [];
    for (let at = node; at; at = at.parentElement)
      path.unshift(getComputedStyle(at).backgroundColor);
    return path.reduce((below, one) => `rgb(${rgb(one, below)})`, 'white');
  };
  const faint = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
    if (!own || !node.getClientRects().length || node.closest('.out, .skip, svg')) continue;
    const style = getComputedStyle(node), ground = behind(node);
    const [a, b] = [light(rgb(style.color, ground)), light(rgb(ground, 'white'))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5))
      faint.push(`${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return faint;
})()
"""


# What scrolls sideways, and cannot be reached by the keyboard (WCAG 2.2, 2.1.1).
OUT_OF_REACH = """
[...document.querySelectorAll('main *')]
  .filter(node => node.scrollWidth > node.clientWidth && node.tabIndex < 0 &&
    ['auto', 'scroll'].includes(getComputedStyle(node).overflowX) &&
    !node.querySelector('a[href], button, input, select, summary, [tabindex="0"]'))
  .map(node => node.className + ': ' + node.textContent.trim().slice(0, 60))
"""

# Numbers that reach beyond the box that they stand in.
CUT_TEXTS = """
[...document.querySelectorAll('.number')]
  .filter(node => node.scrollWidth > node.clientWidth).map(node => node.textContent)
"""

# What a table or a card has no room for: it is out of sight until somebody scrolls, or for good.
OUT_OF_SIGHT = """
[...document.querySelectorAll('main .scroll:has(> .rows), main td, main dd, main .tag')]
  .filter(node => node.scrollWidth > node.clientWidth || (node.matches('.tag') &&
    node.getBoundingClientRect().right > node.parentElement.getBoundingClientRect().right + 1))
  .filter(node => getComputedStyle(node).display !== 'inline')
  .map(node => node.className + ': ' + node.textContent.trim().slice(0, 60))
"""


@asynccontextmanager
async def hook() -> AsyncIterator[dict[str, Any]]:
    """Run an endpoint and return the configuration of two webhooks, one of them broken."""

    async def well(_: web.Request) -> web.Response:
        return web.Response(status=204)

    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=503)

    application = web.Application()
    application.router.add_post("/done", well)
    application.router.add_post("/billing", broken)
    async with TestServer(application) as server:
        secret = base64.b64encode(b"s" * 32).decode()
        yield {
            name: {"url": f"{server.make_url('/' + name)}?canary-query", "secret": secret}
            for name in ("done", "billing")
        }


@asynccontextmanager
async def proxy_with_eyes(folder: Path, **changes: Any) -> AsyncIterator[Proxy]:
    """Run a proxy with rules, prices, webhooks and whatever else the dashboard can show."""
    rules = folder / "policies.yaml"
    rules.write_text(RULES)
    async with hook() as webhooks:
        settings = {
            "policies": str(rules),
            "prices": {"providers": {"openai": "openai"}},
            "webhooks": webhooks,
            **changes,
        }
        async with proxy_and_provider(folder, changes=settings) as (proxy, _):
            yield proxy


async def traffic(proxy: Proxy, *, rounds: int = 1) -> str:
    """Make calls of all kinds and wait for their results; return the ID of a job."""
    ids = []
    for round_ in range(rounds):
        for model in ("gpt-4o-mini", "gpt-4o"):
            answers = await asyncio.gather(
                *(
                    chat(
                        proxy,
                        f"canary prompt {round_} {n}",
                        model=model,
                        headers={
                            **JOB,
                            "X-Deferrable-Tags": "team=etl" if n % 2 else "team=evals",
                            "X-Deferrable-Webhook": "done" if n % 4 else "billing",
                        },
                    )
                    for n in range(12)
                )
            )
            ids += [answer["id"] for _, answer in answers]
        await results(proxy, ids)
    for agent, count in (("my-evals/1", 5), ("etl/2", 10)):
        headers = {"User-Agent": agent}
        await asyncio.gather(
            *(chat(proxy, f"canary {agent} {n}", headers=headers) for n in range(count))
        )
    await chat(proxy, "canary for a human", headers={"X-User-Facing": "yes"})
    return str(ids[0])


async def batch_of(proxy: Proxy) -> str:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{proxy.admin_url}/batches") as answer,
    ):
        return str((await answer.json())["data"][0]["id"])


async def log_in(page: Page, proxy: Proxy) -> None:
    await page.go(f"{proxy.admin_url}/")
    assert "Log in" in await page.text()
    fill = f"document.querySelector('[name=token]').value = {TOKEN!r}"
    await page.ask(fill)
    await page.loads(page.ask("document.forms[0].requestSubmit()"))


async def check(page: Page, url: str, *, size: tuple[int, int], dark: bool) -> str:
    """Look at a page, and return its text if it can be read and loads nothing foreign."""
    await page.look(size=size, dark=dark)
    await page.go(url)
    wider = await page.ask("document.documentElement.scrollWidth - window.innerWidth")
    assert wider <= 0, f"{url} is {wider} px wider than a window of {size[0]}"
    assert await page.ask(FAINT_TEXTS) == [], f"{url} in {'dark' if dark else 'light'}"
    assert await page.ask(OUT_OF_REACH) == [], f"{url} in a window of {size[0]} px"
    return await page.text()


async def test_a_phone_shows_millions_of_jobs_and_dollars_and_the_longest_name(
    tmp_path: Path,
) -> None:
    async with proxy_with_eyes(tmp_path) as proxy, browser() as page:
        day = SystemClock().now().date()
        sums = Sums(jobs=98_765_432, answers=10**7, list_nano=3 * 10**16, paid_nano=10**16)
        key = LedgerKey(day=day, lane="interactive", upstream="openai", model="m" * 120)
        stores = await SqliteStores.open(
            tmp_path / "offramp.db", Vault.load_or_create(tmp_path / "offramp.key")
        )
        receipt = Receipt(id="r", job_id=None, bookings=(Booking(key, sums),))
        await stores.ledger.book([receipt])
        await stores.aclose()

        url = f"{proxy.admin_url}/dashboard"
        for size in (DESK, PHONE):
            text = await check(page, url, size=size, dark=False)
            cut = await page.ask(CUT_TEXTS)
            assert cut == [], f"cut off at {size}"

        assert "98,765,432" in text
        assert "$20,000,000" in text


async def test_what_a_caller_made_long_takes_lines_and_no_other_column(tmp_path: Path) -> None:
    async with proxy_with_eyes(tmp_path) as proxy, browser() as page:
        headers = {**JOB, "X-Deferrable-Tags": f"team={'e' * 64}, run=42"}
        _, job = await chat(proxy, "canary", model="m" * 200, headers=headers)
        await chat(proxy, "canary", headers=JOB)

        for place in ("/jobs", f"/jobs/{job['id']}"):
            for size in (DESK, PHONE):
                await page.look(size=size, dark=False)
                await page.go(f"{proxy.admin_url}/dashboard{place}")
                assert await page.ask(OUT_OF_SIGHT) == [], f"{place} at {size}"


async def test_a_window_between_phone_and_desk_shows_every_column(tmp_path: Path) -> None:
    async with proxy_with_eyes(tmp_path) as proxy, browser() as page:
        await traffic(proxy)

        for place in ("/jobs", "/batches", "/rules", "/providers", "/webhooks"):
            for width in (700, 780, 860, 990):
                await page.look(size=(width, 900), dark=False)
                await page.go(f"{proxy.admin_url}/dashboard{place}")
                assert await page.ask(OUT_OF_SIGHT) == [], f"{place} at {width}"


async def test_all_pages_in_a_browser(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    admin = {"listen": "127.0.0.1:0", "token_file": str(token_file)}
    async with proxy_with_eyes(tmp_path, admin=admin) as proxy, browser() as page:
        await page.look()
        await log_in(page, proxy)
        assert "Nothing is deferred yet" in await page.text()

        job_id = await traffic(proxy)
        places = {
            "": "Saved in 30 days",
            "/jobs": "team=etl",
            "/jobs?status=completed&q=gpt-4o-mini": "completed",
            f"/jobs/{job_id}": "bought in a batch of 12 jobs",
            "/batches": "settled",
            f"/batches/{await batch_of(proxy)}": "At the provider",
            "/rules": "nightly-etl",
            "/providers": "nine of ten within",
            "/webhooks": "billing",
        }
        texts = []
        for place, expected in places.items():
            url = f"{proxy.admin_url}/dashboard{place}"
            for size, dark in ((DESK, False), (PHONE, True)):
                text = await check(page, url, size=size, dark=dark)
                assert expected in text, url
                texts.append(text)

        # The policy is the browser's to keep: a script that came in somehow does not run.
        await page.ask(
            "document.body.append(Object.assign(document.createElement('script'),"
            " {textContent: \"document.title = 'run'\"}))"
        )
        assert await page.ask("document.title") == "Webhooks \N{MIDDLE DOT} Offramp"
        blocked = page.complaints.pop()
        assert "Content Security Policy" in blocked

        said = "".join(texts)
        assert "canary" not in said
        assert "sk-" not in said
        assert page.complaints == []
        assert all(url.startswith(proxy.admin_url) for url in page.requested)
