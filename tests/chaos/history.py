"""What was promised to whom, what came of it, and whether that is right."""

import json
from collections import Counter
from dataclasses import dataclass, field

from proxy.sandbox import Running as Provider
from tests.e2e.processes import Bill, right_answer


@dataclass(frozen=True)
class Delivered:
    """A result as one instance gave it out."""

    status: int
    body: bytes


@dataclass
class History:
    """Everything that callers saw."""

    promised: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Key and prompt of the call that each job was promised for."""

    delivered: dict[str, list[Delivered]] = field(default_factory=dict)
    to_strangers: dict[str, int] = field(default_factory=dict)
    """The status with which a job's result was refused to another owner."""

    listed: dict[str, str] = field(default_factory=dict)
    """The state of every job of every owner at the end, promised or not."""

    direct_failures: Counter[str] = field(default_factory=Counter)
    """Interactive calls that did not get their answer, by what they got."""

    double_promises: list[str] = field(default_factory=list)
    """Jobs that were promised for two different calls."""

    def promise(self, job_id: str, key: str, prompt: str) -> None:
        """Note a 202."""
        if self.promised.setdefault(job_id, (key, prompt)) != (key, prompt):
            self.double_promises.append(job_id)

    def faults_found(self, provider: Provider, bill: Bill) -> list[str]:
        """Return what is wrong with it, in words; nothing if all promises were kept."""
        return [*self._broken_promises(), *self._wrong_bill(provider, bill)]

    def _broken_promises(self) -> list[str]:
        found = [f"{job_id} stands for two calls" for job_id in self.double_promises]
        for job_id, (_, prompt) in self.promised.items():
            results = self.delivered.get(job_id, [])
            if len({(one.status, one.body) for one in results}) != 1:
                found.append(f"{job_id} has {len(results)} results that are not one")
            elif results[0].status != 200 or _text(results[0]) != right_answer(prompt):
                found.append(f"{job_id} got a wrong answer: {results[0]}")
            if self.listed.get(job_id) != "completed":
                found.append(f"{job_id} ended as {self.listed.get(job_id)}")
            if self.to_strangers.get(job_id) != 404:
                found.append(f"{job_id} was shown to a stranger: {self.to_strangers.get(job_id)}")
        found += [
            f"{job_id}, promised to nobody, is {state}"
            for job_id, state in self.listed.items()
            if state != "completed"
        ]
        found += [f"{n} direct calls got {what}" for what, n in self.direct_failures.items()]
        return found

    def _wrong_bill(self, provider: Provider, bill: Bill) -> list[str]:
        found = []
        # What is called directly is on the caller's own account.
        paid = provider.ledger.totals(lane="batch").paid_micro_usd
        if not bill.known <= paid <= bill.known + bill.possible:
            found.append(f"the provider billed {paid}, which is not what we know: {bill}")
        if bill.possible or bill.unpriced:
            # All jobs run in batches, whose creates are searched for: no window of doubt.
            found.append(f"a possible double is booked: {bill}")
        bought = sum(entry.batch_id is not None for entry in provider.ledger.entries())
        if bought != len(self.listed):
            found.append(f"{bought} answers were bought for {len(self.listed)} jobs")
        return found


def _text(result: Delivered) -> str:
    return str(json.loads(result.body)["choices"][0]["message"]["content"])
