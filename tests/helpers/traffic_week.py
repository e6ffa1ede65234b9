"""A week of recorded calls: programs that nobody waits for among people who wait.

Everything comes from one seed, so that a week can be made again. Who made a call is
told by its credential: what begins with `batch-` is planted for an audit to find.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from proxy.services.traffic.facts import KIND

MONDAY: Final = datetime(2026, 11, 16, tzinfo=UTC)
CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
MESSAGES: Final = "/v1/messages"

PLANTED: Final = frozenset(
    {"batch-etl", "batch-backfill", "batch-evals", "batch-claude", "mixed-reports"}
)
"""Credentials of calls that nobody waits for; of the last one only those at night."""


def week(seed: int) -> list[bytes]:
    """Return the lines of a week, in the order in which the calls ended."""
    made = Week(random.Random(seed))
    lines = [line for scene in made.scenes() for line in scene]
    lines.sort(key=lambda line: line["time"])
    return [json.dumps(line).encode() for line in lines]


class Week:
    """Makes the calls."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def scenes(self) -> Iterator[Iterator[dict[str, Any]]]:
        yield self._nightly_etl()
        yield self._hourly_backfill()
        yield self._evals_by_day()
        yield self._nightly_claude()
        yield self._reports_by_day_and_night()
        yield self._chat_that_streams()
        yield self._completion_by_day()
        yield self._web_tier_that_calls_like_the_evals()
        yield self._people_in_the_evening()
        yield self._a_few_questions()
        yield self._agents_with_tools()
        yield self._deferred_already()

    def _nightly_etl(self) -> Iterator[dict[str, Any]]:
        for day in range(7):
            begin = MONDAY + timedelta(days=day, hours=1, seconds=self._chance.uniform(0, 120))
            for _ in range(120):
                at = begin + timedelta(seconds=self._chance.uniform(0, 240))
                yield self._call(at, "batch-etl", f"acme-etl/1.{day}", model="gpt-5.4-mini")

    def _hourly_backfill(self) -> Iterator[dict[str, Any]]:
        for hour in range(7 * 24):
            begin = MONDAY + timedelta(hours=hour, minutes=5)
            for number in range(21):
                yield self._call(
                    begin + timedelta(seconds=number * 0.3),
                    "batch-backfill",
                    "python-httpx/0.28",
                    path=EMBEDDINGS,
                    model="text-embedding-3-small",
                    usage={"prompt_tokens": 700, "total_tokens": 700},
                    duration_s=3.0,
                )

    def _evals_by_day(self) -> Iterator[dict[str, Any]]:
        for day, hour in ((0, 11), (1, 15), (3, 10), (3, 16), (4, 13)):
            begin = MONDAY + timedelta(days=day, hours=hour, minutes=self._chance.randrange(60))
            for number in range(150):
                yield self._call(
                    begin + timedelta(seconds=self._chance.uniform(0, 20)),
                    "batch-evals",
                    "OpenAI/Python 3.54.0",
                    model="gpt-5.4",
                    retry=int(number % 20 == 0),
                    duration_s=12.0,
                )

    def _nightly_claude(self) -> Iterator[dict[str, Any]]:
        for day in range(5):
            begin = MONDAY + timedelta(days=day, hours=23, minutes=30)
            for number in range(60):
                yield self._call(
                    begin + timedelta(seconds=number * 8),
                    "batch-claude",
                    "Anthropic/Python 2.12.0",
                    upstream="anthropic",
                    path=MESSAGES,
                    model="claude-sonnet-4-5",
                    usage={
                        "input_tokens": 100,
                        "cache_read_input_tokens": 900,
                        "cache_creation_input_tokens": 0,
                        "output_tokens": 200,
                    },
                )

    def _reports_by_day_and_night(self) -> Iterator[dict[str, Any]]:
        for day in range(7):
            if day < 5:
                yield from self._poisson("mixed-reports", "reports/2.0", day, 8, 18, per_hour=60)
            begin = MONDAY + timedelta(days=day, hours=2, minutes=15)
            for _ in range(80):
                at = begin + timedelta(seconds=self._chance.uniform(0, 90))
                yield self._call(at, "mixed-reports", "reports/2.0")

    def _chat_that_streams(self) -> Iterator[dict[str, Any]]:
        for day in range(7):
            yield from self._poisson(
                "people-chat", "web-chat/3.1", day, 7, 23, per_hour=80, stream=True
            )

    def _completion_by_day(self) -> Iterator[dict[str, Any]]:
        """A busy service whose calls are quick and not streamed, many at once."""
        for day in range(5):
            yield from self._poisson("people-complete", "ide/9.2", day, 8, 18, per_hour=130)

    def _web_tier_that_calls_like_the_evals(self) -> Iterator[dict[str, Any]]:
        for day in range(7):
            yield from self._poisson(
                "people-web", "OpenAI/Python 3.54.0", day, 6, 22, per_hour=30, model="gpt-5.4"
            )

    def _people_in_the_evening(self) -> Iterator[dict[str, Any]]:
        """People far to the west: their evening is our night, mostly."""
        for day in range(7):
            yield from self._poisson("people-west", "coach/1.0", day, 19, 29, per_hour=50)

    def _a_few_questions(self) -> Iterator[dict[str, Any]]:
        for day in range(5):
            yield from self._poisson("people-help", "helpdesk/1.0", day, 9, 17, per_hour=4)

    def _agents_with_tools(self) -> Iterator[dict[str, Any]]:
        """Loops, one call after the other, in bursts and at any hour."""
        for number in range(60):
            at = MONDAY + timedelta(hours=self._chance.uniform(0, 7 * 24))
            for _ in range(40):
                at += timedelta(seconds=self._chance.uniform(2, 9))
                yield self._call(at, "people-agent", f"agent/0.{number % 3}", has_tools=True)

    def _deferred_already(self) -> Iterator[dict[str, Any]]:
        for day in range(7):
            for number in range(60):
                at = MONDAY + timedelta(days=day, hours=3, seconds=number)
                yield self._call(
                    at, "batch-tagged", "acme-etl/1.0", decided_by="header:x-deferrable"
                )

    def _poisson(
        self,
        credential: str,
        agent: str,
        day: int,
        begin: int,
        end: int,
        *,
        per_hour: float,
        **fields: Any,
    ) -> Iterator[dict[str, Any]]:
        at, last = (MONDAY + timedelta(days=day, hours=hour) for hour in (begin, end))
        while (at := at + timedelta(hours=self._chance.expovariate(per_hour))) < last:
            yield self._call(at, credential, agent, **fields)

    def _call(
        self,
        at: datetime,
        credential: str,
        agent: str,
        *,
        upstream: str = "openai",
        path: str = CHAT,
        model: str = "gpt-5.4-mini",
        usage: dict[str, int] | None = None,
        retry: int = 0,
        stream: bool = False,
        has_tools: bool = False,
        duration_s: float | None = None,
        decided_by: str = "default",
    ) -> dict[str, Any]:
        usual = {"prompt_tokens": self._chance.randrange(200, 3_000), "completion_tokens": 150}
        return {
            "kind": KIND,
            "time": at.isoformat().replace("+00:00", "Z"),
            "method": "POST",
            "upstream": upstream,
            "path": path,
            "headers": [
                ["user-agent", agent],
                ["authorization", None],
                ["content-type", "application/json"],
                ["x-stainless-retry-count", str(retry)],
            ],
            "tags": {},
            "owner": f"owner-of-{credential}",
            "credential": credential,
            "obstacle": None,
            "body_bytes": 4_000,
            "readable": True,
            "model": model,
            "stream": stream,
            "has_tools": has_tools,
            "background": False,
            "tokens": 1_000,
            "decided_by": decided_by,
            "shadow": "defer by rule:etl-shadow" if credential == "batch-etl" else None,
            "status": 200,
            "duration_s": self._chance.uniform(1, 6) if duration_s is None else duration_s,
            "usage": usage or usual,
            "tier": "default" if upstream == "openai" else "standard",
        }
