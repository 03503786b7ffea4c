"""The obvious Flax code: nn.Conv, nn.max_pool, nn.ConvTranspose, one jitted call for each step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax_precision import set_precision
from task import Task, serve


class Conv(nn.Module):
    """The tutorial's convolutional model."""

    latent_dim: int

    def setup(self):
        """Layers."""
        self.encoder = [nn.Conv(32, (3, 3)), nn.Conv(64, (3, 3)), nn.Dense(16)]
        self.heads = [nn.Dense(self.latent_dim), nn.Dense(self.latent_dim)]
        self.decoder = [nn.Dense(3136), *(nn.ConvTranspose(features, (3, 3)) for features in (64, 32, 1))]

    def encode(self, x):
        """Mean and log-variance."""
        for conv in self.encoder[:2]:
            x = nn.max_pool(nn.relu(conv(x)), (2, 2), (2, 2))
        h = nn.relu(self.encoder[2](x.reshape(len(x), -1)))
        return self.heads[0](h), self.heads[1](h)

    def decode(self, z):
        """Logits."""
        dense, first, second, last = self.decoder
        h = nn.relu(dense(z)).reshape(-1, 7, 7, 64)
        h = nn.relu(first(h)).repeat(2, 1).repeat(2, 2)
        h = nn.relu(second(h)).repeat(2, 1).repeat(2, 2)
        return last(h)

    def __call__(self, x, key):
        """The loss, nats per image."""
        return negative_elbo(self, x, key)


class Gated(nn.Module):
    """The gated MLP."""

    latent_dim: int

    def setup(self):
        """Layers."""
        self.encoder = [nn.Dense(300) for _ in range(4)]
        self.heads = [nn.Dense(self.latent_dim), nn.Dense(self.latent_dim)]
        self.decoder = [*(nn.Dense(300) for _ in range(4)), nn.Dense(784)]

    def encode(self, x):
        """Mean and log-variance."""
        h = x.reshape(len(x), -1)
        for value, gate in (self.encoder[:2], self.encoder[2:]):
            h = value(h) * nn.sigmoid(gate(h))
        return self.heads[0](h), self.heads[1](h)

    def decode(self, z):
        """Logits."""
        for value, gate in (self.decoder[:2], self.decoder[2:4]):
            z = value(z) * nn.sigmoid(gate(z))
        return self.decoder[4](z).reshape(-1, 28, 28, 1)

    def __call__(self, x, key):
        """The loss, nats per image."""
        return negative_elbo(self, x, key)


def negative_elbo(model, x, key):
    """Cross-entropy plus KL, averaged over the batch."""
    mean, log_var = (head.astype(jnp.float32) for head in model.encode(x))
    z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
    logits = model.decode(z.astype(x.dtype)).astype(jnp.float32)
    cross_entropy = jnp.sum(nn.softplus(logits) - x * logits, axis=(1, 2, 3))
    kl = -0.5 * jnp.sum(1 + log_var - mean**2 - jnp.exp(log_var), axis=-1)
    return jnp.mean(cross_entropy + kl)


def names(model: str) -> dict[str, str]:
    """Where flax_vae's layers stand in these models."""
    heads = {"posterior.mean": "heads_0", "posterior.log_var": "heads_1"}
    if model == "tutorial_conv":
        encoder = {f"encoder.{name}": f"encoder_{i}" for i, name in enumerate(("Conv_0", "Conv_1", "Dense_0"))}
        decoder = {f"decoder.{n}": f"decoder_{i}" for i, n in enumerate(("Dense_0", "Conv_0", "Conv_1", "Conv_2"))}
        return encoder | heads | decoder
    gates = [f"GatedDense_{i}.{part}" for i in (0, 1) for part in ("value", "gate")]
    encoder = {f"encoder.{name}": f"encoder_{i}" for i, name in enumerate(gates)}
    return encoder | heads | {f"decoder.{name}": f"decoder_{i}" for i, name in enumerate([*gates, "Dense_0"])}


def prepare(task: Task):
    """A step is a jitted function of a batch that comes from the host."""
    model = {"tutorial_conv": Conv, "gated_mlp": Gated}[task.model](task.latents.shape[1])
    params = {
        to: {leaf: jnp.asarray(task.params[f"{name}.{leaf}"]) for leaf in ("kernel", "bias")}
        for name, to in names(task.model).items()
    }
    if task.kind == "decode":

        @jax.jit
        def decode(params, z):
            return nn.sigmoid(model.apply({"params": params}, z, method="decode"))

        def decode_all(times: int) -> float:
            for _ in range(times):
                last = decode(params, task.latents).block_until_ready()
            return float(last.mean())

        decode_all(1)
        return decode_all

    tx, key, step, dtype = optax.adam(1e-3), jax.random.key(0), 0, set_precision()
    opt_state = tx.init(params)

    @jax.jit
    def update(params, opt_state, x, key):
        def loss_of(params):
            half = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
            return model.apply({"params": half}, x.astype(dtype), key)

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    images = task.images.astype(np.float32) / 255

    def train(amount: int) -> float:
        nonlocal params, opt_state, step
        total = 0.0
        for rows in task.batches(step, amount):
            params, opt_state, loss = update(params, opt_state, images[rows], jax.random.fold_in(key, step))
            total, step = total + loss, step + 1
        return float(total) / amount

    return train


serve(prepare)
