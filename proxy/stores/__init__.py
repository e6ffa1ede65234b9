"""Durable state: `sqlite` for one machine, `redis` for a fleet, as the ports have it.

Both keep records as `codec` writes them, and calls, results and credentials sealed (`vault`,
under `contexts`). The steps of a job, and where they are:

    step      sqlite/                redis/
    accept    accepting.py           job_calls.py `accept_call`, job_scripts.py `ACCEPT`
    claim     claim.py               claim.py, batch_scripts.py `TAKE`
    items     batches.py             items.py
    end       replace.py             job_calls.py `replace_call`, job_scripts.py `REPLACE`
    list      listing.py             listing.py
    erase     erase.py               erase.py, job_scripts.py `ERASE`

`facts_file` and `price_file` are files of their own.
"""
