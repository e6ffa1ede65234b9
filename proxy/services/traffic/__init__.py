"""What is recorded of calls, and what rules would make of them."""
