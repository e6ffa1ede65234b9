"""The pure core: records, tables and planners. No clock, no I/O, no chance, no logging.

    the life of a job         job, outcomes (what an answer means for it), statuses, estimate
    the life of a batch       batch, batch_events, batch_ends, bad_lines
    what is due, and how      plan, lanes, choice, turnaround, pace
    which calls share a batch affinity, inputs
    where a call belongs      routing, clues, targets, upstream, authority, web_proxy
    what a call says          body, fields, shapes, wrappers
    which call repeats which  repeats
    what it costs             usage, fees, prices, price_list, ledger
    what went wrong           errors, refusals, retry_after
    what is told, and advised notices (to webhooks), audit
    shared by all             ids, records, leases, chunks, plural, compact_json, loose_json

What providers differ in stands in the tables of `dialects`.
"""
