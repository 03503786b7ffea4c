"""A model as graphs that run without JAX, and the engine that runs them in a web browser."""

from flax_vae.explore.graph import Graph, Weights, graph
from flax_vae.explore.program import ENGINE, halved, program

__all__ = ["ENGINE", "Graph", "Weights", "graph", "halved", "program"]
