"""Linen modules that know shapes, not densities."""
