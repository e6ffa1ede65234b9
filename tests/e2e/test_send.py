"""`offramp send`: one answer for each line, in order, bought once, whatever ends it."""

import json
import signal

import pytest

from proxy.core.dialects import credential_hash
from proxy.sandbox import LineFault, Sandbox, SandboxSettings, answer_text, body_hash
from tests.e2e.commands import Desk, killed
from tests.e2e.processes import (
    COMMAND,
    KEY,
    MODEL,
    Proxy,
    body_of,
    proxy_and_provider,
    settings_for,
)
from tests.helpers.raw_upstream import wait_until
from tests.helpers.sqlite_file import opened


@pytest.fixture
async def desk(tmp_path):
    async with Sandbox(SandboxSettings(turnaround_s=1)).serve() as provider:
        yield Desk(tmp_path, provider)


def write_calls(desk, count, *, name="calls.jsonl"):
    """Write that many calls, in the forms that a file may mix."""
    file = desk.folder / name
    with file.open("w") as lines:
        for number in range(count):
            body = body_of(f"line {number}")
            named = {"custom_id": f"c{number}", "method": "POST", "body": body}
            forms = [{**named, "url": "/v1/chat/completions"}, {"body": body}, body]
            lines.write(json.dumps(forms[number % 3]) + "\n")
    return file


async def interrupted(desk, *words, batches=1):
    """Start a command and end it once that many batches were created."""
    process = await desk.offramp(*words)
    requests = desk.provider.ledger.requests
    await wait_until(lambda: requests["POST /v1/batches"] >= batches, "the batch to be created")
    await killed(process, signal.SIGINT)


def read_answers(desk, *, name="answers.jsonl"):
    return [json.loads(line) for line in (desk.folder / name).read_text().splitlines()]


def assert_one_to_one(answers, count):
    assert [answer["line"] for answer in answers] == list(range(1, count + 1))
    for number, answer in enumerate(answers):
        prompt = f"line {number}"
        content = answer["response"]["body"]["choices"][0]["message"]["content"]
        assert content == answer_text(body_hash(body_of(prompt)), prompt)
        assert answer["custom_id"] == (f"c{number}" if number % 3 == 0 else None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_an_interrupted_file_goes_on_and_every_line_is_bought_once(desk, number):
    write_calls(desk, 600)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl")
    process = await desk.offramp(*words)
    requests = desk.provider.ledger.requests
    await wait_until(lambda: requests["POST /v1/batches"], "the batch to be created")

    last_words = await killed(process, number)
    ended = await desk.run(*words, "--json")

    if number is signal.SIGINT:
        assert process.returncode == 130
        assert "go on with\n  offramp send calls.jsonl -o answers.jsonl" in last_words
    assert ended.code == 0
    assert json.loads(ended.stdout)["failed"] == 0
    assert_one_to_one(read_answers(desk), 600)
    assert desk.bought() == {1}
    # A third time there is nothing left to do.
    assert json.loads((await desk.run(*words, "--json")).stdout)["answered"] == 0


async def test_a_running_proxy_does_the_same_and_only_what_is_new_in_the_file_is_sent_on(tmp_path):
    async with proxy_and_provider(tmp_path) as (proxy, provider):
        desk = Desk(tmp_path, provider)
        file = write_calls(desk, 20)
        words = ("send", "calls.jsonl", "-o", "answers.jsonl", "--url", proxy.base_url)
        first = await desk.run(*words)
        with file.open("a") as lines:
            lines.write(json.dumps(body_of("line 20")))

        # The same proxy, as a person may write it.
        host = proxy.base_url.removeprefix("http://")
        second = await desk.run(*words[:-1], f"HTTP://{host}/")
        elsewhere = await desk.run(*words, "--endpoint", "/v1/completions")
        first_line, *others = file.read_text().splitlines()
        file.write_text("\n".join([first_line, first_line, *others[1:]]))
        changed = await desk.run(*words)
        file.write_text(first_line)
        shorter = await desk.run(*words)

        assert shorter.stderr.startswith("offramp: calls.jsonl has 1 line; 21 were sent before\n")
        assert elsewhere.code == changed.code == 1
        assert "calls.jsonl:2: has changed since it was sent, or --endpoint" in elsewhere.stderr
        assert "calls.jsonl:2: has changed since it was sent" in changed.stderr
        assert (first.code, second.code) == (0, 0)
        assert "new answers in answers.jsonl: 20\n" in first.stderr
        assert "new answers in answers.jsonl: 1\n" in second.stderr
        assert len(read_answers(desk)) == 21
        assert desk.bought() == {1}


async def test_a_url_by_which_no_answer_could_be_collected_buys_nothing(tmp_path):
    async with proxy_and_provider(tmp_path) as (proxy, provider):
        desk = Desk(tmp_path, provider)
        write_calls(desk, 12)
        words = ("send", "calls.jsonl", "-o", "answers.jsonl", "--url")

        prefixed = await desk.run(*words, f"{proxy.base_url}/openai")
        elsewhere = await desk.run(*words, provider.base_url)
        of_an_sdk = await desk.run(*words, f"{proxy.base_url}/v1")
        again = await desk.run(*words, proxy.base_url)
        mistyped = await desk.run(*words, "user:canary@localhost")

        for refused in (prefixed, elsewhere):
            assert refused.code == 1
            assert "is this an offramp?" in refused.stderr
        assert of_an_sdk.code == 0
        # One proxy, so one send: nothing is left to do.
        assert "new answers in answers.jsonl: 0\n" in again.stderr
        assert mistyped.code == 2
        assert "must be http(s)://host[:port][/path]" in mistyped.stderr
        assert "canary" not in mistyped.stderr
        assert_one_to_one(read_answers(desk), 12)
        assert desk.bought() == {1}


async def test_what_failed_is_in_its_place_and_told_by_file_and_line(desk):
    write_calls(desk, 12)
    with (desk.folder / "calls.jsonl").open("a") as lines:
        lines.write(json.dumps({"model": MODEL}) + "\n")
    desk.provider.faults.add(LineFault(outcome="status", status=400, message="a bad day"))

    ended = await desk.run("send", "calls.jsonl", "-o", "answers.jsonl")

    again = await desk.run("send", "calls.jsonl", "-o", "answers.jsonl")

    answers = read_answers(desk)
    assert (ended.code, again.code) == (1, 1)
    assert "errors among the earlier ones: 2" in again.stderr
    assert "earlier" not in ended.stderr
    assert [answer["response"]["status_code"] for answer in answers].count(200) == 11
    assert answers[12]["response"]["status_code"] == 400
    assert "calls.jsonl:13: HTTP 400: Missing required parameter: 'messages'.\n" in ended.stderr
    assert "HTTP 400: a bad day" in ended.stderr


async def test_nothing_is_sent_of_a_file_with_a_line_that_is_no_call(desk):
    write_calls(desk, 3)
    with (desk.folder / "calls.jsonl").open("a") as lines:
        lines.write("{\n[]\n")

    ended = await desk.run("send", "calls.jsonl", "-o", "answers.jsonl")

    assert ended.code == 1
    assert "calls.jsonl:4:2: is no JSON: expecting property name" in ended.stderr
    assert "calls.jsonl:5: is no JSON object\n" in ended.stderr
    assert not (desk.folder / "answers.jsonl").exists()
    assert not desk.provider.ledger.requests


async def test_a_file_of_something_else_is_never_written_to(desk):
    write_calls(desk, 1)
    (desk.folder / "answers.jsonl").write_text("precious")

    ended = await desk.run("send", "calls.jsonl", "-o", "answers.jsonl")

    assert ended.code == 1
    assert "holds something else" in ended.stderr
    assert (desk.folder / "answers.jsonl").read_text() == "precious"


async def test_a_missing_key_is_named_before_anything_is_sent(desk):
    write_calls(desk, 3)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl")

    missing = await desk.run(*words, "--api-key-env", "NO_SUCH_KEY")

    assert missing.code == 1
    assert "NO_SUCH_KEY is not set" in missing.stderr


@pytest.mark.parametrize("key", ["sk-canary\nof two lines", "sk-canary-\udcff"])
async def test_a_key_that_no_header_carries_is_named_and_not_shown(desk, key):
    write_calls(desk, 3)

    refused = await desk.run("send", "calls.jsonl", "-o", "answers.jsonl", OPENAI_API_KEY=key)

    assert refused.code == 1
    assert "OPENAI_API_KEY holds characters that no header can carry" in refused.stderr
    assert "canary" not in refused.stderr


async def test_calls_that_come_through_a_pipe_are_refused_for_what_they_are(desk):
    write_calls(desk, 3)
    words = (*COMMAND, "send", "/dev/stdin", "-o", "answers.jsonl")
    process = await desk.start("bash", "-c", 'cat calls.jsonl | "$@"', "-", *words)

    ended = await desk.ended(process)

    assert ended.code == 1
    assert "/dev/stdin is no file" in ended.stderr
    assert not (desk.folder / "answers.jsonl").exists()


async def test_many_lines_may_be_on_their_way_where_few_files_may_be_open(desk):
    write_calls(desk, 100)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl", "--concurrency", "100")
    # As a shell sets it; the process may have more.
    process = await desk.start("bash", "-c", 'ulimit -Sn 64; "$@"', "-", *COMMAND, *words)

    ended = await desk.ended(process)

    assert ended.code == 0, ended.stderr
    assert_one_to_one(read_answers(desk), 100)


async def test_another_key_buys_nothing_again_until_it_is_told_to(desk):
    write_calls(desk, 20)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl")
    await interrupted(desk, *words)
    rotated = {"OPENAI_API_KEY": "sk-canary-rotated"}

    refused = await desk.run(*words, **rotated)

    assert refused.code == 1
    assert "OPENAI_API_KEY holds another key" in refused.stderr
    assert "--buy-again" in refused.stderr
    assert desk.bought() == {1}
    # The earlier key goes on; and once all is answered, any key may follow.
    assert (await desk.run(*words)).code == 0
    with (desk.folder / "calls.jsonl").open("a") as lines:
        lines.write(json.dumps(body_of("line 20")) + "\n")
    assert (await desk.run(*words, **rotated)).code == 0
    assert_one_to_one(read_answers(desk)[:20], 20)
    assert desk.bought() == {1}


async def test_with_another_key_lines_are_bought_again_if_the_user_says_so(desk):
    write_calls(desk, 20)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl")
    await interrupted(desk, *words)

    ended = await desk.run(*words, "--buy-again", OPENAI_API_KEY="sk-canary-rotated")

    assert ended.code == 0
    assert_one_to_one(read_answers(desk), 20)
    assert desk.bought() == {2}


async def test_what_the_proxy_has_forgotten_is_not_bought_again_unasked(desk):
    write_calls(desk, 20)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl")
    await interrupted(desk, *words)
    for part in (desk.folder / "state").rglob("offramp.db*"):
        part.unlink()

    refused = await desk.run(*words)

    assert refused.code == 1
    assert "calls.jsonl:1 and 19 more: sent before" in refused.stderr
    assert desk.bought() == {1}
    assert (await desk.run(*words, "--buy-again")).code == 0
    assert_one_to_one(read_answers(desk), 20)


async def test_a_line_whose_job_was_cancelled_is_told_so(tmp_path):
    slow = SandboxSettings(turnaround_s=3600)
    async with proxy_and_provider(tmp_path, provider_settings=slow) as (proxy, provider):
        desk = Desk(tmp_path, provider)
        write_calls(desk, 1)
        urls = {"OFFRAMP_URL": proxy.base_url}
        process = await desk.offramp("send", "calls.jsonl", "-o", "answers.jsonl", **urls)
        requests = provider.ledger.requests
        await wait_until(lambda: requests["POST /v1/batches"], "the batch to be created")
        listed = json.loads((await desk.run("jobs", "list", "--json", **urls)).stdout)

        await desk.run("jobs", "cancel", listed["data"][0]["id"], **urls)
        ended = await desk.ended(process)

        assert ended.code == 1
        assert "calls.jsonl:1: cancelled: job job_" in ended.stderr


async def test_an_answer_that_the_proxy_cannot_read_is_none_and_not_bought_again_unasked(desk):
    write_calls(desk, 12)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl")
    assert (await desk.run(*words)).code == 0
    output = desk.folder / "answers.jsonl"
    first = read_answers(desk)[0]["id"]
    output.unlink()
    (store,) = (desk.folder / "state").rglob("offramp.db")
    with opened(store) as direct:
        where = "job = (SELECT num FROM jobs WHERE id = ?)"
        direct.execute(f"UPDATE results SET body = x'00' WHERE {where}", [first])

    refused = await desk.run(*words)

    assert refused.code == 1
    assert "calls.jsonl:1: sent before, and its answer is lost: " in refused.stderr
    assert output.read_bytes() == b""
    assert (await desk.run(*words, "--buy-again")).code == 0
    assert_one_to_one(read_answers(desk), 12)
    assert sorted(desk.provider.ledger.purchases().values()) == [*[1] * 11, 2]


async def test_a_key_that_was_refused_may_be_exchanged(desk):
    (desk.folder / "provider.key").write_text(KEY)
    held = {
        "key_file": str(desk.folder / "provider.key"),
        "clients": {"etl": [credential_hash("off_right")]},
    }
    settings = settings_for(desk.folder, {"openai": desk.provider.base_url}, {})
    settings["upstreams"]["openai"] |= held
    proxy = Proxy(desk.folder, settings)
    await proxy.start()
    write_calls(desk, 3)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl", "--url", proxy.base_url)
    try:
        refused = await desk.run(*words, OPENAI_API_KEY="off_wrong")
        ended = await desk.run(*words, OPENAI_API_KEY="off_right")
    finally:
        await proxy.kill()

    assert refused.code == 1
    assert "openai: HTTP 401" in refused.stderr
    assert ended.code == 0


@pytest.mark.parametrize("is_shorter", [False, True])
async def test_no_answer_stands_for_a_line_that_was_changed_meanwhile(desk, is_shorter):
    """The file is written over in place, in another order or shorter, once it was sent."""
    file = write_calls(desk, 600)
    text = file.read_text()
    lines = text.splitlines(keepends=True)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl")
    process = await desk.offramp(*words)
    requests = desk.provider.ledger.requests
    await wait_until(lambda: requests["POST /v1/batches"], "the batch to be created")

    # Three lines change places with three others: of the same forms, and as long.
    moved = [lines[number - 3 if number % 6 > 2 else number + 3] for number in range(300, 600)]
    file.write_text("".join(lines[:300] if is_shorter else lines[:300] + moved))
    changed = await desk.ended(process)
    again = await desk.run(*words)
    file.write_text(text)
    ended = await desk.run(*words)

    assert changed.code == again.code == 1
    assert "has changed since it was sent" in changed.stderr
    assert ended.code == 0
    assert_one_to_one(read_answers(desk), 600)
    assert desk.bought() == {1}


async def test_of_two_files_with_one_output_only_one_is_sent(desk):
    for name in "ab":
        write_calls(desk, 12, name=f"{name}.jsonl")
    starts = [await desk.offramp("send", f"{name}.jsonl", "-o", "out.jsonl") for name in "ab"]

    first, second = sorted(
        [await desk.ended(start) for start in starts], key=lambda ended: ended.code
    )

    assert (first.code, second.code) == (0, 1)
    # It came while the first one wrote, or when that had ended.
    assert "out.jsonl is being written" in second.stderr or "something else" in second.stderr
    assert_one_to_one(read_answers(desk, name="out.jsonl"), 12)
    assert desk.bought() == {1}


async def test_a_file_that_took_the_place_of_the_answers_is_left_and_costs_nothing(desk):
    write_calls(desk, 12)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl")
    await desk.run(*words)
    output = desk.folder / "answers.jsonl"
    output.write_text("my precious notes")

    refused = await desk.run(*words)

    assert refused.code == 1
    assert "holds something else" in refused.stderr
    assert output.read_text() == "my precious notes"
    # As the hint says.
    output.rename(desk.folder / "notes")
    assert (await desk.run(*words)).code == 0
    assert_one_to_one(read_answers(desk), 12)
    assert desk.bought() == {1}


async def test_answers_make_up_for_a_journal_that_lost_its_end(desk):
    file = write_calls(desk, 12)
    words = ("send", "calls.jsonl", "-o", "answers.jsonl")
    await desk.run(*words)
    (journal,) = (desk.folder / "state").rglob("journal")
    journal.write_bytes(journal.read_bytes()[:200])
    with file.open("a") as lines:
        lines.write(json.dumps({"custom_id": "c12", "body": body_of("line 12")}) + "\n")

    ended = await desk.run(*words)

    assert ended.code == 0
    assert_one_to_one(read_answers(desk), 13)
    assert desk.bought() == {1}


async def test_an_upstream_may_be_called_otherwise_than_its_dialect(desk):
    upstreams = {"claude-eu": {"dialect": "anthropic", "base_url": desk.provider.base_url}}
    (desk.folder / "offramp.yaml").write_text(json.dumps({"upstreams": upstreams}))
    body = {**body_of("hi"), "model": "claude-haiku-4-5", "max_tokens": 50}
    call = {"url": "/claude-eu/v1/messages", "body": body}
    (desk.folder / "calls.jsonl").write_text(json.dumps(call) + "\n")
    words = ("send", "calls.jsonl", "-o", "answers.jsonl", "--config", "offramp.yaml")

    ended = await desk.run(*words, CLAUDE_EU_API_KEY=KEY)

    assert ended.code == 0, ended.stderr
    assert read_answers(desk)[0]["response"]["status_code"] == 200


async def test_a_folder_that_is_not_there_is_named_before_anything_is_sent(desk):
    write_calls(desk, 3)

    ended = await desk.run("send", "calls.jsonl", "-o", "nowhere/answers.jsonl")

    assert ended.code == 1
    assert "nowhere/answers.jsonl: No such file or directory" in ended.stderr
    assert not desk.provider.ledger.requests


async def test_a_disk_that_takes_nothing_is_no_bug(desk):
    write_calls(desk, 3)
    words = (*COMMAND, "send", "calls.jsonl", "-o", "answers.jsonl")
    # No file may grow.
    process = await desk.start("bash", "-c", 'ulimit -f 0; exec "$@"', "-", *words)

    ended = await desk.ended(process)

    assert ended.code == 1
    assert "cannot be written: File too large" in ended.stderr
    assert not desk.provider.ledger.requests
