"""Where calls come in, and what becomes of each: forwarded, deferred, or ours."""
