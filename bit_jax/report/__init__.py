"""Studies of many runs, and the pages that show them."""
