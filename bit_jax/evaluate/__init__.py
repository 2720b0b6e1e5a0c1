"""Uses of networks that are not trained here."""
