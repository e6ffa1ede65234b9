"""Offramp: a transparent LLM proxy that reroutes deferrable traffic to batch."""
