"""Making a run: build, fit, resume."""
