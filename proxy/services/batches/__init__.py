"""The way of a batch: filled, submitted, asked after, read, settled."""
