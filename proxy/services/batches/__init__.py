"""The way of a batch: filled, submitted, asked after, read, settled.

    pass      what it does, and with the help of what
    flush     fills batches: claim, governor (tokens that a provider lets in)
    submit    buys each once: submission (what is sent), steps (what is durable meanwhile), recover
              (did a begun create happen?), denials (of a credential)
    collect   asks how they are, stops the late ones, has those settled that ended: in_vain
    settle    cares for every job of one that ended: result_files and ingest (read them), release
              (jobs without a result), clean_up (at the provider)

`rounds` takes the batches of submit and collect one step each: those that are `due`, not
`stranded`, a few at a time (`fanout`). `at_provider` asks after a provider batch with whatever
key may; `twins` and `unnamed` care for what unclear creates left, and what bears no name of ours.
"""
