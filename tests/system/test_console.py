"""Progress bars appear only for work that takes long."""

from types import SimpleNamespace

import pytest

from flax_vae.system import console


@pytest.mark.parametrize(("seconds", "shown"), [(0.5, False), (2.5, True)])
def test_progress_is_shown_after_two_seconds(
    seconds: float, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, *[seconds] * 3])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert list(console.progress(range(3), 3, "Downloading")) == [0, 1, 2]
    assert ("Downloading" in capsys.readouterr().err) == shown
