"""A comparison over time: what holds after each epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .comparison import Comparison, Record
from .evolution import Update
from .implementation import Steps
from .network import KINDS

Row = Sequence[str] | None


def seconds(record: Record) -> list[float]:
    """Seconds of training up to the end of each epoch: updates of edges are in them, tests are not."""
    whole: list[float] = np.cumsum([sum(part) for part in _by_epoch(record.steps.total, len(record.test))]).tolist()
    return whole


def step_milliseconds(record: Record) -> list[float]:
    """Median milliseconds of a step in each epoch."""
    return [1000 * float(np.median(part)) for part in _by_epoch(record.steps.total, len(record.test))]


def update_share(steps: Steps) -> float:
    """Part of the training time that went into changing edges."""
    return sum(steps.evolver) / sum(steps.total)


def median_update(steps: Steps) -> float:
    """Median seconds of an update of edges."""
    return float(np.median([update.seconds for update in steps.updates]))


def updates_by_epoch(record: Record) -> list[list[Update]]:
    """The updates of each epoch."""
    epochs: list[list[Update]] = [[] for _ in record.test]
    length = len(record.steps.loss) // len(record.test)
    for update in record.steps.updates:
        epochs[(update.step - 1) // length].append(update)
    return epochs


def accuracy_rows(comparison: Comparison) -> list[Row]:
    """Test accuracy after each epoch, and the seconds of training until then."""
    records = [comparison.records[kind] for kind in KINDS]
    times = [seconds(record) for record in records]
    rows: list[Row] = [["after epoch", *KINDS], None]
    for epoch in range(comparison.setting.epochs):
        cells = [
            f"{record.test[epoch].accuracy:.2f} %, {time[epoch]:.2f} s"
            for record, time in zip(records, times, strict=True)
        ]
        rows.append([str(epoch + 1), *cells])
    return rows


def edge_rows(comparison: Comparison) -> list[Row]:
    """Edges of sparse after each epoch, and what was tried and replaced."""
    record = comparison.records["sparse"]
    positions = sum(a * b for a, b in zip(comparison.setting.sizes, comparison.setting.sizes[1:], strict=False))
    rows: list[Row] = [
        ["after epoch", "edges", "density", "explored (R_s)", "updates", "mean churn"],
        None,
    ]
    last: Update | None = None
    for epoch, updates in enumerate(updates_by_epoch(record), 1):
        last = updates[-1] if updates else last
        if last is None:
            start = comparison.setting.start_density
            now = [f"{round(start * positions)}", f"{start:.4g}", f"{100 * start:.1f} %"]
        else:
            now = [str(last.edges), f"{last.density:.4g}", f"{100 * last.explored:.1f} %"]
        churn = f"{100 * float(np.mean([update.churn for update in updates])):.1f} %" if updates else "-"
        rows.append([str(epoch), *now, str(len(updates)), churn])
    return rows


def figures(record: Record) -> dict[str, Any]:
    """The same for JSON."""
    of_updates = {name: [getattr(update, name) for update in record.steps.updates] for name in Update.__annotations__}
    return {
        "epoch_s": seconds(record),
        "epoch_step_ms": step_milliseconds(record),
        "updates": {name.replace("seconds", "s"): column for name, column in of_updates.items()},
        "update_share_of_time": update_share(record.steps),
    }


def _by_epoch(numbers: Sequence[float], epochs: int) -> list[np.ndarray]:
    return np.split(np.array(numbers), epochs)
