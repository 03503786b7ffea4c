"""The tutorial's script for today's Keras: python keras_script.py IMAGES.npz EPOCHS."""

import sys

import keras
import numpy as np
from keras_ import Sampling, cross_entropy, tutorial_conv

with np.load(sys.argv[1]) as data:
    train, test = (data[name][..., None].astype(np.float32) / 255 for name in ("x_train", "x_test"))
encoder, decoder = tutorial_conv(2)
vae = keras.Model(encoder.input, decoder(Sampling()(encoder.output)))
vae.compile(keras.optimizers.Adam(1e-3), loss=cross_entropy)
vae.fit(
    train,
    train,
    epochs=int(sys.argv[2]),
    batch_size=128,
    validation_data=(test, test),
    verbose=0,
    callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch + 1, logs, flush=True))],
)
