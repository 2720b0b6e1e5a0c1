"""What a run learns: losses, and how training judges them."""
