"""From the rules of a config to the numbers of one run."""
