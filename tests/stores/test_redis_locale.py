"""A Redis that was started with a locale: its scripts compare texts as that locale does."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.ports.batches import ClaimLimits
from tests.helpers.factories import IDS, T0, make_batch, new_job
from tests.helpers.redis_server import opened, redis_server

pytestmark = pytest.mark.redis

PLENTY = ClaimLimits(max_requests=50_000, max_bytes=10**9)


@pytest.fixture
def english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is started have a locale in which a tilde stands before letters."""
    source = Path("/usr/share/i18n/locales/en_US")
    if shutil.which("localedef") is None or not source.exists():
        pytest.skip("no locale can be made here")
    made = tmp_path / "locales" / "en_US.UTF-8"
    made.parent.mkdir()
    subprocess.run(["localedef", "-i", source.name, "-f", "UTF-8", made], check=True)
    monkeypatch.setenv("LOCPATH", str(made.parent))
    monkeypatch.setenv("LC_ALL", made.name)


async def calls_of_a_claim(folder: Path) -> int:
    """Claim what came at the same moment; return how many calls of scripts that took."""
    with redis_server(folder) as server:
        async with opened(server.url) as stores:
            news = [new_job(id=IDS.job(shard=number % 64)) for number in range(64 * 40)]
            for start in range(0, len(news), 500):
                await asyncio.gather(*map(stores.jobs.accept, news[start : start + 500]))
            batch = make_batch()
            await stores.batches.add(batch)
            server.admin.config_resetstat()

            claimed = await stores.batches.claim(batch.key, batch.id, PLENTY, ready_at=T0)

            assert (claimed.count, claimed.complete) == (len(news), True)
            stats = server.admin.info("commandstats")
            return sum(int(stats[f"cmdstat_{name}"]["calls"]) for name in ("eval", "evalsha"))


async def test_a_claim_takes_no_more_steps_in_another_locale(
    tmp_path: Path, english: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_english = await calls_of_a_claim(tmp_path)
    monkeypatch.setenv("LC_ALL", "C")

    assert in_english == await calls_of_a_claim(tmp_path)
