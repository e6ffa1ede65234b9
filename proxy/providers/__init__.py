"""Batch APIs, as `ports/provider.py` has them: one adapter for each way of speaking.

    openai_family                             OpenAI and its clones
    anthropic_batches, openrouter_batches     `inline`: no files, and no name of ours is kept
    gemini_batches, gemini_openai_batches     `gemini_files`: the two ways into one Gemini
    mistral_jobs, xai_batches

Beside an adapter, `…_objects` reads the provider's batches and `…_lines` its results.

`calls` sends over the client for forwarded calls, with bodies made by `inputs`; `channel` by the
`openai` package in a thread (`worker`, `openai_client`, `upload_body`). `_wire` says what a
refusal means, `lenient` and `statuses` read what varies, `result_lines` and `item_cutter` cut
results out of a stream, which `codings` unpacks. `site` is an upstream as `channel` needs it.
"""
