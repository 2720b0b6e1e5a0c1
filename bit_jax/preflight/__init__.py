"""What a step needs of its devices, before it runs."""
