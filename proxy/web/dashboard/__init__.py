"""Pages for operators, made on the server: no script, no build step, nothing from elsewhere.

`pages` asks `proxy.services.insight` and fills templates, `charts` draws, `words` says
times, sizes and money as people do.
"""
