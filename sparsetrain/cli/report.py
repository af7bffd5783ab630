"""What a comparison tells: the figures, the table of them, the JSON of them."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from ..text_table import aligned, size
from . import over_time
from .comparison import Comparison, Record
from .implementation import Steps
from .network import KINDS
from .setting import count

PHASES = ("forward", "backward", "optimizer", "total")
TIME_ROWS = {
    "one step": "total",
    "  forward and loss": "forward",
    "  backward": "backward",
    "  optimizer": "optimizer",
}
FORM_WORDS = {"forward": "mask times weight in the forward pass", "step": "mask on the weight after each step"}


def quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, in milliseconds."""
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)) * 1000
    return float(low), float(median), float(high)


def milliseconds(steps: Steps) -> dict[str, float]:
    """Median milliseconds of each phase of a step, and of the whole step."""
    return {phase: quartiles(getattr(steps, phase))[1] for phase in PHASES}


def loss_difference(comparison: Comparison) -> float:
    """Largest difference between sparse's and masked's loss over the steps of the first epoch."""
    steps = len(comparison.records["sparse"].steps.loss) // comparison.setting.epochs
    sparse, masked = (np.array(comparison.records[kind].steps.loss[:steps]) for kind in ("sparse", "masked"))
    return float(np.abs(sparse - masked).max())


def kept_ratio(comparison: Comparison, with_indices: bool) -> float:
    """Bytes of sparse's parameters and optimizer state over masked's; ``with_indices`` adds them to sparse's alone."""
    sparse, masked = comparison.records["sparse"].memory, comparison.records["masked"].memory
    own = sparse.indices if with_indices else 0
    return (sparse.parameters + sparse.state + own) / (masked.parameters + masked.state)


def table(comparison: Comparison) -> str:
    """The table and the lines under it, as people read them."""
    records = [comparison.records[kind] for kind in KINDS]
    times = [milliseconds(record.steps) for record in records]
    rows = [
        ["", *KINDS],
        None,
        ["test accuracy", *(f"{record.test[-1].accuracy:.2f} %" for record in records)],
        ["test loss", *(f"{record.test[-1].loss:.4f}" for record in records)],
        ["train loss", *(f"{record.train_loss(comparison.setting.epochs)[-1]:.4f}" for record in records)],
        None,
        *([label, *(f"{time[phase]:.2f} ms" for time in times)] for label, phase in TIME_ROWS.items()),
        *_update_rows(comparison),
        ["times sparse's step", *(f"{time['total'] / times[0]['total']:.2f} x" for time in times)],
        None,
        ["peak memory of process", *(size(record.memory.peak) for record in records)],
        ["  before the model", *(size(record.memory.before) for record in records)],
        ["  risen with the model", *(size(record.memory.peak - record.memory.before) for record in records)],
        ["parameters", *(size(record.memory.parameters) for record in records)],
        ["optimizer state", *(size(record.memory.state) for record in records)],
        ["indices or mask", *(size(record.memory.indices) for record in records)],
        None,
        ["whole training", *(f"{sum(record.steps.total):.2f} s" for record in records)],
        ["warm-up, not counted", *(f"{record.warm_up:.2f} s" for record in records)],
    ]
    parts = [
        rows,
        over_time.accuracy_rows(comparison),
        *([over_time.edge_rows(comparison)] if comparison.setting.evolution else []),
    ]
    lines = [line for part in parts for line in (*aligned(part), "")]
    return "\n".join([comparison.setting.title, comparison.setting.subtitle, "", *lines, *remarks(comparison)])


def _update_rows(comparison: Comparison) -> list[Sequence[str]]:
    """Time of the updates of edges, where there are any."""
    if not comparison.setting.evolution:
        return []
    steps = [comparison.records[kind].steps for kind in KINDS]
    return [
        ["one update of edges", *(f"{1000 * over_time.median_update(s):.2f} ms" if s.updates else "-" for s in steps)],
        ["  share of all time", *(f"{100 * over_time.update_share(s):.1f} %" if s.updates else "-" for s in steps)],
    ]


def remarks(comparison: Comparison) -> list[str]:
    """Sentences that the figures need beside them."""
    steps = len(comparison.records["sparse"].steps.loss) // comparison.setting.epochs
    forms = ", ".join(
        f"{FORM_WORDS[form]} {seconds * 1000:.2f} ms" for form, seconds in sorted(comparison.forms.items())
    )
    return [
        *_remarks_on_edges(comparison),
        f"Sparse and masked differ by at most {loss_difference(comparison):.1e} in the loss of any of the first "
        f"epoch's {count(steps, 'step')}.",
        f"Sparse keeps {kept_ratio(comparison, False):.3f} of masked's parameters and optimizer state in bytes, "
        f"{kept_ratio(comparison, True):.3f} with its indices.",
        f"Masked ran with the {FORM_WORDS[comparison.form]}, the cheaper form in a trial before:",
        f"  {forms}.",
        f"Dense products had torch's float32 matmul precision {comparison.setting.precision!r}.",
        f"Times are medians of {count(len(comparison.records['sparse'].steps.loss), 'step')}. All processes load the "
        "same libraries and kernels before the model.",
    ]


def _remarks_on_edges(comparison: Comparison) -> list[str]:
    """What must be said where edges change."""
    if comparison.shared_edges is None:
        return []
    return [
        f"Edges are sparse's. At the end masked has {100 * comparison.shared_edges:.2f} % of them.",
        "Masked changes its mask through the same Evolver, which lists the edges of the mask first:",
        "  code for masks alone may update faster. Its steps are those of any masked network.",
    ]


def figures(comparison: Comparison) -> dict[str, Any]:
    """Everything that was measured, ready for JSON."""
    return {
        "setting": asdict(comparison.setting),
        "contestants": {kind: _figures_of(comparison, record) for kind, record in comparison.records.items()},
        "masked_form": {"used": comparison.form, "trial_ms": {form: 1000 * s for form, s in comparison.forms.items()}},
        "kernels_s": comparison.kernels,
        "shared_edges": comparison.shared_edges,
        "first_epoch_loss_difference": loss_difference(comparison),
        "kept_bytes_sparse_over_masked": kept_ratio(comparison, False),
        "kept_bytes_with_indices_sparse_over_masked": kept_ratio(comparison, True),
    }


def _figures_of(comparison: Comparison, record: Record) -> dict[str, Any]:
    low_median_high = {phase: quartiles(getattr(record.steps, phase)) for phase in PHASES}
    sparse = milliseconds(comparison.records["sparse"].steps)["total"]
    return {
        "test_accuracy": [test.accuracy for test in record.test],
        "test_loss": [test.loss for test in record.test],
        "train_loss": record.train_loss(comparison.setting.epochs),
        "step_loss": record.steps.loss,
        "step_ms": {phase: dict(zip(("q1", "median", "q3"), q, strict=True)) for phase, q in low_median_high.items()},
        "step_over_sparse": low_median_high["total"][1] / sparse,
        "bytes": asdict(record.memory),
        "warm_up_s": record.warm_up,
        **over_time.figures(record),
    }


def write_json(comparison: Comparison, environment: dict[str, Any], file: BinaryIO) -> None:
    """The figures and where they were measured, as one JSON object."""
    text = json.dumps(_strict({**figures(comparison), "environment": environment}), indent=1, allow_nan=False)
    file.write(text.encode() + b"\n")


def _strict(value: Any) -> Any:
    """The value with None for NaN and infinity, which JSON does not have: losses of a run that diverged."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
