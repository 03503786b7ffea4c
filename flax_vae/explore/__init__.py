"""A model as an HTML page that runs without JAX: its functions as graphs, and an engine that runs them in a browser.

program(graphs(model, halved(params), image_shape))      # JSON: `encode`, `decode` and `sample`
const {encode, decode, sample} = engine.open(program)    // JavaScript: the script `ENGINE` defines `engine`
page(model, params, images, labels, class_names, about)  # HTML: the program, test images and controls
"""

from flax_vae.explore.compiler.packing import ENGINE, halved, program
from flax_vae.explore.compiler.tracer import Graph, Weights, graph
from flax_vae.explore.functions import Functions, graphs
from flax_vae.explore.page import About, page

__all__ = ["ENGINE", "About", "Functions", "Graph", "Weights", "graph", "graphs", "halved", "page", "program"]
