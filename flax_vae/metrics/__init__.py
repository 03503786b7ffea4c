"""Numbers about a model with its parameters, in nats per image."""
