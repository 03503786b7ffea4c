"""The registry of posteriors."""

from flax_vae.parts import Parts

POSTERIORS = Parts("posterior", supplied=("latent_dim",))
