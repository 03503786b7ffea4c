"""Records of epochs: the lines of `metrics.jsonl`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Record = dict[str, Any]
HIGHER_IS_BETTER = ("elbo",)  # of the metrics that can choose the best epoch


def parse_record(line: str) -> Record:
    """Read a line of `metrics.jsonl`.

    Raises:
        ValueError: not the record of an epoch.
        KeyError: an entry is missing.
    """
    record = parse_object(line)
    counts, loss = (record["epoch"], record["step"]), record[f"{held_out_set(record)}_loss"]
    if not all(type(count) is int for count in counts) or not isinstance(loss, float):
        raise ValueError(f"not the record of an epoch: {line[:80]}")
    return record


def parse_object(text: str) -> Record:
    """Read a JSON object.

    Raises:
        ValueError: not a JSON object.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def held_out_set(record: Mapping[str, Any]) -> str:
    """Return the set whose loss selects the best epoch: "validation" if the run has one, else "test", else "train"."""
    return next((name for name in ("validation", "test") if f"{name}_loss" in record), "train")


def best_record(records: Sequence[Record], monitor: str = "loss") -> Record | None:
    """Return the epoch with the best value of a metric on the held-out set, the last one at a tie; None without epochs.

    Args:
        records: the epochs.
        monitor: the metric. Lower is better, except for those in `HIGHER_IS_BETTER`.
    """
    sign = -1 if monitor in HIGHER_IS_BETTER else 1
    return min(
        reversed(records),
        key=lambda record: sign * record[f"{held_out_set(record)}_{monitor}"],
        default=None,
    )


def epochs_since_best(records: Sequence[Record], monitor: str = "loss") -> int:
    """Return the number of epochs after the best one."""
    best = best_record(records, monitor)
    return records[-1]["epoch"] - best["epoch"] if best else 0
