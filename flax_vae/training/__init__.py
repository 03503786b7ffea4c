"""Training as a pure function of (state, batch)."""
