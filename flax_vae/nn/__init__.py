"""Linen modules that models share. They handle shapes, not densities."""
