"""instructor around the `openai` SDK: whatever is answered must fit a model."""

import instructor
from openai import OpenAI
from pydantic import BaseModel

from tests.callers.drivers.stage import CHAT_MODEL, MESSAGES, Call, play, usual


class Ticket(BaseModel):
    """A ticket of the support."""

    kind: str
    urgency: int


def client(call: Call) -> instructor.Instructor:
    return instructor.from_openai(OpenAI(base_url=f"{call.url}/v1", api_key=call.key))


def ask(call: Call) -> str:
    ticket = client(call).chat.completions.create(
        model=CHAT_MODEL, messages=MESSAGES, response_model=Ticket, extra_headers=call.headers
    )
    assert isinstance(ticket, Ticket)
    return str(ticket.kind)


def stream(call: Call) -> str:
    partial = client(call).chat.completions.create_partial(
        model=CHAT_MODEL, messages=MESSAGES, response_model=Ticket, extra_headers=call.headers
    )
    *_, last = partial
    return str(last.kind)


if __name__ == "__main__":
    play(usual(ask, stream), "instructor", "openai")
