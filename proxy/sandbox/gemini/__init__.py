"""Gemini's API: its endpoints, its credential and its errors."""

from proxy.sandbox.gemini.api import GeminiDialect

__all__ = ["GeminiDialect"]
