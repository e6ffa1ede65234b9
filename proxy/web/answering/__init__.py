"""How callers of deferred calls are answered, at once or when their job has ended."""
