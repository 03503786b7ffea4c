"""Figures and pictures of a run. Each family of figures is one file in `figures/`."""
