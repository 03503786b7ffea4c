"""A model as graphs that run without JAX, and the engine that runs them in a web browser.

program(graphs(vae, halved(params), image_shape))        # JSON: `encode`, `decode` and `sample`
const {encode, decode, sample} = engine.open(program)    // JavaScript: the text of `ENGINE` defines `engine`
page(vae, params, images, labels, class_names, about)    # HTML: all of that, test images, and what to explore them by
"""

from flax_vae.explore.compiler.graph import Graph, Weights, graph
from flax_vae.explore.compiler.program import ENGINE, halved, program
from flax_vae.explore.functions import Functions, graphs
from flax_vae.explore.page import About, page

__all__ = ["ENGINE", "About", "Functions", "Graph", "Weights", "graph", "graphs", "halved", "page", "program"]
