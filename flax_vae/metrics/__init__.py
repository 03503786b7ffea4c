"""Metrics: pure functions of a model with its parameters, in nats per image unless stated otherwise."""
