"""Records of epochs."""

import json

import pytest

from flax_vae.runs.records import best_record, epochs_since_best, held_out_set, parse_record


def record(epoch: int, loss: float, held_out: str = "test") -> dict:
    return {"epoch": epoch, "step": 10 * epoch, f"{held_out}_loss": loss}


def test_the_last_of_equally_good_epochs_is_the_best() -> None:
    records = [record(1, 3.0), record(2, 1.0), record(3, 1.0), record(4, 2.0)]
    assert best_record(records) == records[2]
    assert epochs_since_best(records) == 1
    assert (best_record([]), epochs_since_best([])) == (None, 0)


def test_a_metric_chooses_the_best_epoch_in_its_direction() -> None:
    """A higher elbo is better; a lower value of any other metric."""
    terms = [(-9.0, 5.0), (-7.0, 6.0), (-8.0, 4.0)]
    records = [record(i, 1.0) | {"test_elbo": elbo, "test_mmd": mmd} for i, (elbo, mmd) in enumerate(terms)]
    assert best_record(records, "elbo") == records[1]
    assert epochs_since_best(records, "elbo") == 1
    assert best_record(records, "mmd") == best_record(records, "loss") == records[2]


def test_a_validation_set_selects_if_there_is_one() -> None:
    records = [record(1, 3.0, "validation") | {"test_loss": 1.0}, record(2, 2.0, "validation") | {"test_loss": 9.0}]
    assert held_out_set(records[0]) == "validation"
    assert best_record(records) == records[1]


@pytest.mark.parametrize("change", [{"epoch": "1"}, {"step": 1.5}, {"test_loss": 1}, {"test_loss": None}])
def test_a_line_with_another_type_is_not_a_record(change: dict) -> None:
    line = record(1, 2.0)
    assert parse_record(json.dumps(line)) == line
    with pytest.raises(ValueError, match="not the record of an epoch"):
        parse_record(json.dumps(line | change))
