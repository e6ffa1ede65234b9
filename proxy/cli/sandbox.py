"""`offramp sandbox`."""

import click

from proxy.sandbox.__main__ import main

command = click.Command(
    "sandbox",
    params=main.params,
    callback=main.callback,
    help="""Serve a provider in a sandbox, to try things without a key.

    \b
      offramp sandbox --port 9000
      OPENAI_BASE_URL=http://127.0.0.1:9000/v1 OPENAI_API_KEY=any python script.py

    It speaks the APIs of OpenAI, Anthropic and others on one port, batches included,
    takes any key, and answers every prompt with words that follow from it. Its URL is
    the first line that it prints; --turnaround is how long its batches take.""",
)
