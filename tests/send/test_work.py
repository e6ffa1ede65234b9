"""What is held in memory of a file, however large its lines are."""

import json

from proxy.send import work
from proxy.send.journal import Journal
from proxy.send.output import Output
from proxy.send.remote import Answered, Remote
from proxy.send.work import Work


class Proxy(Remote):
    """Takes every call, answers at once, and sees how many lines were noted by then."""

    def __init__(self, journal):
        self.journal = journal
        self.noted = []

    async def defer(self, line, key):
        self.noted.append(self.journal.count)
        return f"job_{line.number}"

    async def results(self, provider, jobs):
        return [
            Answered(b'{"id": "%b", "status": "completed"}' % job.encode(), "completed", 200, None)
            for job in jobs
        ]


async def sent(folder, count):
    """Send that many lines of a thousand bytes each; return the proxy."""
    file = folder / "calls.jsonl"
    file.write_text("".join(json.dumps({"prompt": "x" * 1000}) + "\n" for _ in range(count)))
    with Journal(folder / "journal") as journal, Output(folder / "answers.jsonl") as output:
        proxy = Proxy(journal)
        await Work(
            file=file,
            count=count,
            endpoint="/v1/completions",
            identity="send",
            remote=proxy,
            journal=journal,
            output=output,
            concurrency=10,
        ).run(lambda: None)
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [(answer["line"], answer["id"]) for answer in answers] == [
        (number, f"job_{number}") for number in range(1, count + 1)
    ]
    return proxy


async def test_small_lines_are_sent_by_the_hundred(tmp_path):
    assert set((await sent(tmp_path, 300)).noted) == {0, 256}


async def test_large_lines_are_sent_by_as_many_as_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_CHUNK_BYTES", 2500)

    assert (await sent(tmp_path, 7)).noted == [0, 0, 0, 3, 3, 3, 6]
