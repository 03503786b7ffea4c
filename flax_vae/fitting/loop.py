"""The training loop: run steps, evaluate every epoch, save, and stop on a signal."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flax_vae.fitting.ensemble import Ensemble, open_ensemble
from flax_vae.fitting.host_input import HostInput
from flax_vae.fitting.members import Member
from flax_vae.fitting.report import Report, log_start
from flax_vae.fitting.timing import Pace
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.records import Record
from flax_vae.system.processes import maximum_over_processes, run_in_first_process
from flax_vae.system.signals import deferred_signals
from flax_vae.training.step import TrainState

Callback = Callable[[int, Record, TrainState], Any]


class Interrupted(Exception):
    """A signal stopped the training after its state was saved."""

    def __init__(self, signum: int, directory: RunDirectory) -> None:
        """Store the signal: by convention, the exit code is 128 + its number."""
        super().__init__(f"Stopped and saved. {directory.how_to_resume}")
        self.signum = signum


def train(directory: RunDirectory, members: Sequence[Member], callbacks: Sequence[Callback] = ()) -> set[int]:
    """Train members from a common step to the last epoch; report and save into their directories.

    Args:
        directory: the directory to resume: that of the run, or that of all members.
        members: the trainings; those that stopped early may be at an earlier step.
        callbacks: functions to call after each epoch, in the first process, for the first member.

    Returns:
        The members that diverged, if others finished.

    Raises:
        UserError: all members diverged.
        OSError: a file cannot be written.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    config = members[0].training.config
    furthest = max(members, key=lambda member: int(member.state.step))
    epochs = range(furthest.epochs_reported, config.epochs)
    report = Report(members, furthest)
    with open_ensemble(members) as ensemble, report:
        if epochs and ensemble.active():
            log_start(directory, members, int(furthest.state.step))
            source = HostInput([member.training for member in members], ensemble.mesh)
            # Until the end of the compilation, a signal ends the program at once: there is nothing to save yet.
            ensemble.compile(source.example(epochs[0]))
            maximum_over_processes(0)  # a barrier: a process that stops need not wait for others to compile
            with deferred_signals() as received:

                def stop_on_signal() -> None:
                    if signum := maximum_over_processes(received[0] if received else 0):
                        ensemble.save(source.state)
                        ensemble.wait_until_saved()
                        raise Interrupted(signum, directory)

                _train_epochs(epochs, ensemble, source, report, callbacks, stop_on_signal)
        return set(ensemble.failed)


def _train_epochs(
    epochs: range,
    ensemble: Ensemble,
    source: HostInput,
    report: Report,
    callbacks: Sequence[Callback],
    stop_on_signal: Callable[[], None],
) -> None:
    """Train, evaluate, report and save epoch by epoch, until no member trains any more."""
    steps_per_epoch, pace = ensemble.training.steps_per_epoch, Pace()
    held_out = "test" if ensemble.training.data.validation is None else "validation"

    def spans(start: int, end: int) -> Iterator[tuple[int, int]]:
        for span in pace.spans(start, end):
            yield span
            stop_on_signal()

    for epoch in epochs:
        if not ensemble.active():
            break
        first_step = epoch * steps_per_epoch
        for dispatch in report.clock.waiting(source.dispatches(epoch, ensemble.step - first_step)):
            ensemble.advance(dispatch)
            images = (dispatch.stop - dispatch.start) * ensemble.training.batch_size * len(ensemble.active())
            report.advance(ensemble.step, ensemble.means(ensemble.step - first_step), images)
            stop_on_signal()
        train_means = ensemble.means(steps_per_epoch)
        ensemble.fail_if_skipping(train_means)
        means = {"train": train_means}
        if ensemble.held_out is not None:
            means[held_out] = ensemble.evaluate(ensemble.held_out, spans)
        common = {"epoch": epoch + 1, "step": ensemble.step} | report.clock.finish_epoch()
        records = {
            i: common | {f"{part}_{name}": mean for part in means for name, mean in means[part][i].items()}
            for i in ensemble.active()
        }
        report.finish_epoch(records)
        ensemble.clear_totals()
        ensemble.save(source.state)
        for callback in callbacks:
            run_in_first_process(callback, epoch + 1, dict(records[0]), ensemble.first_state())
        ensemble.stop_early()
        stop_on_signal()
