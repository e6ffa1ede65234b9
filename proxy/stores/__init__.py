"""Durable state: adapters of the ports in `proxy.ports.jobs` and `proxy.ports.batches`."""
