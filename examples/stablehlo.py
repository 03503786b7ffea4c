"""Draw images with a model exported by `flax-vae export RUN --format stablehlo --out exported`.

Needs only JAX, flatbuffers and Pillow.

python examples/stablehlo.py exported     draws ten new images, and below each its reconstruction

The files hold the computation and its parameters, so flax_vae is not imported.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
from jax import export
from PIL import Image


def load(folder):
    """Return the functions of an exported model by name, and its export.json."""
    about = json.loads((folder / "export.json").read_text())
    functions = {}
    for path in folder.glob("*.stablehlo"):
        functions[path.stem] = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return functions, about


def draw(functions, about, count, seed=0):
    """Return new images "n h w c", and their reconstructions."""
    random = np.random.default_rng(seed)
    num_classes = len(about["class_names"])
    # The last argument of a conditional model is the context: here the classes in turn, as one-hot vectors.
    context = [np.eye(num_classes, dtype=np.float32)[np.arange(count) % num_classes]] if num_classes else []

    def noise(name):
        shapes = {argument["name"]: argument["shape"] for argument in about["files"][f"{name}.stablehlo"]["arguments"]}
        return random.normal(size=(count, shapes["noise"][-1])).astype(np.float32)

    images = functions["sampler"](noise("sampler"), *context)
    z = functions["encoder"](images, 0 * noise("encoder"), *context)  # zeros give the centre of the posterior
    return np.asarray(images), np.asarray(functions["decoder"](z, *context))


def save(path, rows):
    """Save rows of images "n h w c" as one picture."""
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
