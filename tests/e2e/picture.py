"""Make the picture of the dashboard that the README shows: `python -m tests.e2e.picture`.

A month of sums is put into the store first, as a month of use leaves them; the jobs,
batches and rules are those of a real run.
"""

import asyncio
import random
import tempfile
from datetime import date, timedelta
from itertools import product
from pathlib import Path

from proxy.app import SystemClock
from proxy.core.ids import JobId
from proxy.core.ledger import Booking, LedgerKey, Receipt, Sums
from proxy.core.prices import NANO
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.e2e.test_dashboard import proxy_with_eyes, traffic
from tests.helpers.browser import browser

PICTURE = Path(__file__).resolve().parents[2] / "deploy" / "monitoring" / "dashboard.png"
SIZE = (1120, 800)
MODELS = {"gpt-4o": 0.55, "gpt-4o-mini": 0.3, "gpt-4.1-mini": 0.15}
SHARES = {"batch": 0.82, "flex": 0.12, "interactive": 0.06}


def month(today: date) -> list[Receipt]:
    """Return what a month of growing use adds up to, weekends apart."""
    draw = random.Random(7)
    receipts = []
    for back in range(1, 30):
        day = today - timedelta(days=back)
        busy = (3 if day.weekday() < 5 else 0.8) * (1.6 - back / 30) * draw.uniform(0.75, 1.25)
        for (lane, share), model in product(SHARES.items(), MODELS):
            cost = round(busy * share * MODELS[model] * NANO)
            jobs = round(400 * busy * share * MODELS[model])
            key = LedgerKey(day=day, lane=lane, upstream="openai", model=model)
            paid = cost if lane == "interactive" else cost // 2
            sums = Sums(jobs=jobs, answers=jobs, list_nano=cost, paid_nano=paid)
            booking = Booking(key, sums)
            name = f"{day}-{lane}-{model}"
            receipts.append(Receipt(id=name, job_id=JobId(name), bookings=(booking,)))
    return receipts


async def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        async with proxy_with_eyes(folder) as proxy, browser() as page:
            await traffic(proxy)
            await proxy.terminate()
            vault = Vault.load_or_create(folder / "offramp.key")
            stores = await SqliteStores.open(folder / "offramp.db", vault)
            await stores.ledger.book(month(SystemClock().now().date()))
            await stores.aclose()
            await proxy.start()
            await traffic(proxy)
            await page.look(size=SIZE)
            await page.go(f"{proxy.admin_url}/dashboard")
            await page.picture(PICTURE)


if __name__ == "__main__":
    asyncio.run(main())
