"""What callers ask about their jobs."""
