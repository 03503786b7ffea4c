"""Latents of new images, from a trained model."""
