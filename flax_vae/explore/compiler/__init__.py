"""A compiler from JAX functions to graphs of instructions, and the engine that runs them without JAX.

    squares = program({"square": graph(lambda x: x**2, jnp.zeros(3))})  # JSON
    const {square} = engine.open(squares)                               // JavaScript: `ENGINE` defines `engine`

`tracer.py` traces a function; `primitives.py`, `contractions.py` and `indexing.py` translate its equations into
instructions on the arrays of `memory.py`; `packing.py` packs several graphs with their weights; `engine.js` runs them.
"""
