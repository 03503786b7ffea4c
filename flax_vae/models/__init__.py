"""Networks and distributions joined into models."""
