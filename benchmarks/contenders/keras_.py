"""Keras by `fit` and `predict`; KERAS_BACKEND chooses what runs it, XLA=1 compiles the step."""

import os

import keras
import numpy as np
from keras import layers, ops
from task import Task, serve


class Sampling(layers.Layer):
    """z = mean + exp(log_var / 2) ε, with the KL as the layer's loss."""

    def __init__(self) -> None:
        """A seed of its own."""
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, inputs):
        """Latents "b d"."""
        mean, log_var = inputs
        kl = -0.5 * ops.sum(1 + log_var - ops.square(mean) - ops.exp(log_var), axis=-1)
        self.add_loss(ops.mean(kl))
        return mean + ops.exp(0.5 * log_var) * keras.random.normal(ops.shape(mean), seed=self.seed)


def cross_entropy(x, logits):
    """Nats per image."""
    return ops.sum(ops.softplus(logits) - x * logits, axis=(1, 2, 3))


def tutorial_conv(latent_dim: int):
    """Encoder and decoder of the tutorial."""
    x = keras.Input((28, 28, 1))
    h = x
    for i, features in enumerate((32, 64)):
        h = layers.Conv2D(features, 3, padding="same", activation="relu", name=f"encoder.Conv_{i}")(h)
        h = layers.MaxPooling2D()(h)
    h = layers.Dense(16, activation="relu", name="encoder.Dense_0")(layers.Flatten()(h))
    encoder = keras.Model(x, heads(h, latent_dim))
    z = keras.Input((latent_dim,))
    h = layers.Reshape((7, 7, 64))(layers.Dense(3136, activation="relu", name="decoder.Dense_0")(z))
    for i, features in enumerate((64, 32)):
        h = layers.Conv2DTranspose(features, 3, padding="same", activation="relu", name=f"decoder.Conv_{i}")(h)
        h = layers.UpSampling2D()(h)
    return encoder, keras.Model(z, layers.Conv2DTranspose(1, 3, padding="same", name="decoder.Conv_2")(h))


def gated_mlp(latent_dim: int):
    """Encoder and decoder of the gated MLP."""

    def gated(h, name: str):
        value = layers.Dense(300, name=f"{name}.value")(h)
        return value * layers.Dense(300, activation="sigmoid", name=f"{name}.gate")(h)

    x = keras.Input((28, 28, 1))
    h = gated(gated(layers.Flatten()(x), "encoder.GatedDense_0"), "encoder.GatedDense_1")
    encoder = keras.Model(x, heads(h, latent_dim))
    z = keras.Input((latent_dim,))
    h = gated(gated(z, "decoder.GatedDense_0"), "decoder.GatedDense_1")
    return encoder, keras.Model(z, layers.Reshape((28, 28, 1))(layers.Dense(784, name="decoder.Dense_0")(h)))


def heads(h, latent_dim: int):
    """Mean and log-variance."""
    return [layers.Dense(latent_dim, name=f"posterior.{name}")(h) for name in ("mean", "log_var")]


def set_params(model, task: Task) -> None:
    """Give each layer the task's parameters; a transposed convolution stores its kernel flipped, outputs first."""
    for each in model.layers:
        if f"{each.name}.kernel" in task.params:
            kernel, bias = task.params[f"{each.name}.kernel"], task.params[f"{each.name}.bias"]
            if isinstance(each, layers.Conv2DTranspose):
                kernel = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
            each.set_weights([kernel, bias])


def prepare(task: Task):
    """The usual calls: `fit` on arrays of floats, `predict` on all latents."""
    encoder, decoder = {"tutorial_conv": tutorial_conv, "gated_mlp": gated_mlp}[task.model](task.latents.shape[1])
    set_params(encoder, task)
    set_params(decoder, task)
    compiled = bool(os.environ.get("XLA"))
    if task.kind == "decode":
        decoder.compile(jit_compile=compiled)

        def decode_all(times: int) -> float:
            for _ in range(times):
                last = decoder.predict(task.latents, batch_size=len(task.latents), verbose=0)
            return float((1 / (1 + np.exp(-last))).mean())

        decode_all(1)
        return decode_all

    vae = keras.Model(encoder.input, decoder(Sampling()(encoder.output)))
    vae.compile(keras.optimizers.Adam(1e-3), loss=cross_entropy, jit_compile=compiled)
    images, step = task.images.astype(np.float32) / 255, 0

    def train(amount: int) -> float:
        nonlocal step
        x = images[task.batches(step, amount).ravel()]
        step += amount
        return vae.fit(x, x, batch_size=task.batch_size, shuffle=False, verbose=0).history["loss"][-1]

    return train


if __name__ == "__main__":
    serve(prepare)
