"""Image sets, one file a kind."""
