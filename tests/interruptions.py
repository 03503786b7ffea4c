"""A signal at a given step of a training."""

import signal

import pytest

from flax_vae.fitting.report import Report


def interrupt_at(step: int, patch: pytest.MonkeyPatch, signum: int = signal.SIGTERM) -> None:
    """Stop the training after a step, which may be within an epoch and within a block of batches that is read ahead."""
    advance = Report.advance

    def advance_and_interrupt(self: Report, at: int, *arguments: object) -> None:
        advance(self, at, *arguments)
        if at == step:
            signal.raise_signal(signum)

    patch.setattr(Report, "advance", advance_and_interrupt)
    patch.setattr("flax_vae.fitting.timing._SECONDS_PER_DISPATCH", 0.0)  # every step is a dispatch
