"""Connections for forwarded calls: two clients, of which one is used (`forwarding.client`).

`lean_client` sends over connections of our own. A call takes one from the `pool`, which has the
`dial` open others (`addresses`, `tunnel`, `tls`) and lends each `connection` to one call at a
time. What comes back is a `lean_response`: where its `head` and its `body` end, and the
`timeouts` that it must keep.

`aiohttp_client` sends the same bytes over aiohttp's connections, and an `aiohttp_response` is
what comes back. `sending` holds for both.
"""
