"""Images from a model that `flax-vae export RUN --format stablehlo --out exported` wrote, with JAX alone.

python examples/stablehlo.py exported     draws ten new images, and below them what the model makes of each of these

flax_vae is not imported: the files hold the computation and its parameters.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
from jax import export
from PIL import Image


def load(folder):
    """The functions of an exported model by name, and what export.json says of it."""
    about = json.loads((folder / "export.json").read_text())
    functions = {}
    for path in folder.glob("*.stablehlo"):
        functions[path.stem] = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return functions, about


def draw(functions, about, count, seed=0):
    """New images "n h w c", and what they are after encoding and decoding."""
    random = np.random.default_rng(seed)
    classes = len(about["class_names"])  # a conditional model takes a context last: here one class after the other
    context = [np.eye(classes, dtype=np.float32)[np.arange(count) % classes]] if classes else []

    def noise(name):
        arguments = {each["name"]: each["shape"] for each in about["files"][f"{name}.stablehlo"]["arguments"]}
        return random.normal(size=(count, arguments["noise"][-1])).astype(np.float32)

    new = functions["sampler"](noise("sampler"), *context)
    z = functions["encoder"](new, 0 * noise("encoder"), *context)  # without noise, the centre of the posterior
    return np.asarray(new), np.asarray(functions["decoder"](z, *context))


def save(path, rows):
    """Rows of images "n h w c" as a picture."""
    pixels = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    pixels = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", default="stablehlo.png")
    args = parser.parse_args()
    functions, about = load(args.folder)
    save(args.out, draw(functions, about, 10))
