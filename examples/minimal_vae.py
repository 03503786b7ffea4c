"""A variational autoencoder on Fashion-MNIST, with its own networks, objective and training loop.

python examples/minimal_vae.py     prints the loss of each epoch and writes ten new images to minimal_vae.png
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_vae import (
    VAE,
    DiagonalNormal,
    StandardNormal,
    epoch_batches,
    init_state,
    load_images,
    make_train_step,
    plots,
    sample,
)
from flax_vae import distortion as distortion_of
from flax_vae import rate as rate_of


class Encoder(nn.Module):
    """Map images to features."""

    @nn.compact
    def __call__(self, x):
        """Return features "b f" of images "b h w c"."""
        return nn.gelu(nn.Dense(400)(x.reshape(x.shape[0], -1)))


class Decoder(nn.Module):
    """Map latents to the logits of pixels."""

    @nn.compact
    def __call__(self, z):
        """Return logits "b h w c" at latents "b d"."""
        return nn.Dense(28 * 28)(nn.gelu(nn.Dense(400)(z))).reshape(-1, 28, 28, 1)


def warm_elbo(model, x, key, step):
    """Return minus the ELBO, with a weight of the rate that rises from 0 to 1 over the first 500 steps."""
    inference = model.infer(x, key)  # z ~ q(z | x), p(z) and p(x | z)
    distortion, rate = distortion_of(inference, x), rate_of(inference)  # both "b", in nats
    return distortion + jnp.minimum(step / 500, 1.0) * rate, {"elbo": -(distortion + rate)}


def train(images, epochs, latent_dim=10, batch_size=100, seed=0):
    """Train a VAE on uint8 images "n 28 28 1" and return it with its parameters."""
    model = VAE(Encoder(), DiagonalNormal(latent_dim), StandardNormal(latent_dim), Decoder())
    tx = optax.adam(1e-3)
    state = init_state(model, tx, jax.random.key(seed), images.shape[1:])
    step = make_train_step(model, warm_elbo, tx)  # (state, batch) -> (state, metrics), pure and jitted
    for epoch in range(epochs):
        history = []
        for batch in epoch_batches(images, batch_size, seed, epoch):
            state, metrics = step(state, batch)
            history.append(metrics)
        mean = {name: np.mean([metrics[name] for metrics in history]) for name in ("loss", "elbo")}
        print(f"epoch {epoch + 1}: loss {mean['loss']:.2f}, elbo {mean['elbo']:.2f} nats per image", flush=True)
    return model, state.params


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion_mnist", help="or a file or folder of 28x28 grey images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", default="minimal_vae.png")
    args = parser.parse_args()
    model, params = train(load_images(args.dataset, "train").x, args.epochs)
    plots.save_image_grid(args.out, sample(model, params, jax.random.key(1), 10), 10)
