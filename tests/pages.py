"""The programs of docs/programs, run as they stand but for the numbers in their constants."""

import ast
import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

F64 = torch.float64
FOLDER = Path(__file__).parent.parent / "docs" / "programs"


def f64(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


def close(actual: Any, expected: Any, atol: float = 1e-13) -> None:
    actual, expected = (v.detach() if isinstance(v, Tensor) else f64(v) for v in (actual, expected))
    torch.testing.assert_close(actual.to(F64), expected.to(F64), rtol=0, atol=atol)


class Ran(NamedTuple):
    """A program that ran to its end: the names that it leaves, and what it printed."""

    names: dict[str, Any]
    printed: str

    def __getattr__(self, name: str) -> Any:
        try:
            return self.names[name]
        except KeyError:
            raise AttributeError(name) from None


def run(page: str, **sizes: object) -> Ran:
    """Run a page with other values in the constants that it sets at its top, ``EPOCHS=2`` for ``EPOCHS = 100``."""
    path = FOLDER / f"{page}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    left = dict(sizes)
    for line in tree.body:
        if isinstance(line, ast.Assign):
            line.value = _replaced(line.targets[0], line.value, left)
    if left:
        raise ValueError(f"run: expected constants of {path.name}, got {sorted(left)}.")
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    plots = pytest.importorskip("matplotlib.pyplot", reason="needs the extra demo")
    plots.switch_backend("agg")  # there may be no screen
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # everything is small
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), names)
    finally:
        torch.set_num_threads(threads)
        plots.close("all")
    return Ran(names, printed.getvalue())


def _replaced(target: ast.expr, value: ast.expr, left: dict[str, object]) -> ast.expr:
    """The right side of an assignment, with the numbers that are left to set; those are taken out."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(target.elts, value.elts, strict=True)
        return ast.Tuple([_replaced(name, number, left) for name, number in pairs], ast.Load())
    if isinstance(target, ast.Name) and target.id in left:
        return ast.parse(repr(left.pop(target.id)), mode="eval").body
    return value
