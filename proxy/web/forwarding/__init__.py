"""Calls that are forwarded at once, unchanged, from one connection to another."""
