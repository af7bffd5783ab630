"""The results as tables of text."""

from collections.abc import Iterator
from typing import Any

from .machine import Result


def aligned(results: list[Result]) -> str:
    """A column for each key, in the order in which keys first come."""
    keys = list(dict.fromkeys(key for result in results for key in result))
    lines = [keys, *([shown(result.get(key, "")) for key in keys] for result in results)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(keys))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def shown(value: Any) -> str:
    """Numbers in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def beside_dense(results: list[Result]) -> list[Result]:
    """Steps of layers: the dense one in milliseconds, and how many times as fast each way is, in the same precision."""
    done = [each for each in results if "step_ms" in each]
    rivals = {(each["way"], *_at(each)): each["step_ms"] for each in done if each["way"] in ("dense", "masked")}
    lines: dict[Any, Result] = {}
    for each in done:
        dense, masked = (rivals.get((way, *_at(each)), float("nan")) for way in ("dense", "masked"))
        if each["way"] in ("dense", "masked"):
            continue
        keys = {name: each[name] for name in ("size", "batch", "density", "precision")}
        line = lines.setdefault(tuple(keys.values()), keys | {"dense_ms": dense, "masked": _times(dense, masked)})
        line[each["way"]] = _times(dense, each["step_ms"])
        line |= {"chosen": each["chosen"]} if "chosen" in each else {}
    return [lines[key] for key in sorted(lines)]


def _at(result: Result) -> tuple[int, int, str]:
    return result["size"], result["batch"], result["precision"]


def _times(dense: float, other: float) -> str:
    return f"{dense / other:.2f}x"


def right(results: list[Result]) -> list[Result]:
    """How many of a backend's results are right, the worst errors, and what is not right."""
    lines: dict[Any, Result] = {}
    for each in results:
        line = lines.setdefault(
            (each["backend"], each["precision"]),
            {"backend": each["backend"], "precision": each["precision"], "right": 0, "of": 0},
        )
        line["right"], line["of"] = line["right"] + each["right"], line["of"] + 1
        for name in ("y", "dx", "dv", "db"):
            found = each.get(name, float("nan"))
            line[name] = line[name] if found <= line.get(name, -1.0) else found
    return [*lines.values(), *(each for each in results if not each["right"])]


FORM = {"layers": beside_dense, "correct": right}


def tables(parts: dict[str, Any]) -> Iterator[str]:
    """One for each part."""
    for name, part in parts.items():
        results = FORM.get(name, list)(part["results"])
        yield f"\n{name} ({part['ended']}, {part['seconds']} s)\n{aligned(results) if results else ''}"
