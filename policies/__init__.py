"""Who decides whether a call is deferred: pure functions over facts of the call."""
