"""Memory and cost of a training step, known before it runs."""
