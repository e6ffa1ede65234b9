"""What makes a job of a call: what it says, whether it may wait, whose repeat it is."""
