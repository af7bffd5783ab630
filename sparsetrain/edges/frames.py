"""Data frames in and out of layers: labels, columns in the order of a layer's inputs, edges with their weights."""

from collections import defaultdict
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..arrays import array
from ..extras import needed
from ..structure.edge_list import WEIGHT, named_nodes
from ..structure.names import Names, text
from ..structure.topology import Topology

Unknown = Literal["drop", "error"]


def labels(matrix: Any) -> tuple[list[Any] | None, list[Any] | None]:
    """Names of the rows and of the columns of a data frame; None where those count from 0, or it is none."""
    if not hasattr(matrix, "columns"):
        return None, None
    return _named(matrix.index), _named(matrix.columns)


def _named(axis: Any) -> list[Any] | None:
    names: list[Any] = axis.tolist()
    return None if names == list(range(len(names))) else names


def numbers_in(where: str, matrix: Any) -> Tensor:
    """A data frame as a matrix, in the type that holds all of its columns."""
    _check_numeric(where, matrix)
    holes = matrix.isna().to_numpy()
    if holes.any():
        row, column = (int(k[0]) for k in holes.nonzero())
        raise ValueError(
            f"{where}: expected a weight in every place, got none in row {matrix.index[row]!r}, column "
            f"{matrix.columns[column]!r}. Fill it, with 0 where there is no edge."
        )
    types = [getattr(dtype, "numpy_dtype", dtype) for dtype in matrix.dtypes]
    return torch.from_numpy(matrix.to_numpy(np.result_type(*types) if types else float, copy=True))


def _numeric(frame: Any) -> npt.NDArray[np.bool_]:
    return np.array([dtype.kind in "biuf" for dtype in frame.dtypes], dtype=bool)


def _check_numeric(where: str, frame: Any) -> None:
    numeric = _numeric(frame)
    if not numeric.all():
        column = int(numeric.argmin())
        raise ValueError(
            f"{where}: expected numbers, got column {frame.columns[column]!r} of dtype {frame.dtypes.iloc[column]}. "
            "Convert it, for instance with pandas.to_numeric."
        )


def aligned(where: str, frame: Any, names: Names, unknown: Unknown = "drop") -> Any:
    """The columns of a frame that have these names, in this order, finite numbers all."""
    if unknown not in ("drop", "error"):
        raise ValueError(f"{where}: expected unknown to be 'drop' or 'error', got {unknown!r}.")
    if names is None:
        raise ValueError(
            f"{where}: expected a layer with named inputs, got one without. Make it with from_edges, or from a "
            "Topology with inputs=."
        )
    if not hasattr(frame, "columns") or not hasattr(frame, "iloc"):
        raise TypeError(f"{where}: expected a pandas data frame, got {type(frame).__name__}.")
    places = defaultdict(list)
    for k, column in enumerate(frame.columns):
        places[text(column)].append(k)
    missing = [name for name in names if name not in places]
    if missing:
        advice = "Add them, for instance with what stands for no measurement."
        if _is_transposed(frame, names, len(missing)):
            advice = "These are names of its rows, which are to be samples: pass frame.T."
        elif {name.casefold() for name in missing} & {name.casefold() for name in places}:
            advice = "There are columns of such names in other letters, upper or lower case: rename them."
        raise ValueError(
            f"{where}: expected a column for each of {len(names)} inputs, got none for {len(missing)}: "
            f"{_first(missing)}. {advice}"
        )
    known = set(names)
    others = [column for column in frame.columns if text(column) not in known] if unknown == "error" else []
    if others:
        raise ValueError(
            f"{where}: expected columns of the {len(names)} inputs alone, got {len(others)} others: {_first(others)}. "
            'Check their names, or drop them with unknown="drop".'
        )
    for name in names:
        if len(places[name]) > 1:
            alike = " and ".join(repr(frame.columns[k]) for k in places[name])
            raise ValueError(
                f"{where}: expected one column for each input, got columns {alike}, all of which read {name!r} as "
                "text. Drop or rename all but one."
            )
    chosen = frame.iloc[:, [places[name][0] for name in names]].set_axis(list(names), axis=1)
    numeric = _numeric(chosen)
    holes = chosen.isna().to_numpy(copy=True)
    holes[:, numeric] |= np.isinf(chosen.loc[:, numeric].to_numpy("float64", na_value=np.nan))
    if holes.any():
        row, column = (int(k[0]) for k in holes.nonzero())
        raise ValueError(
            f"{where}: expected a number in every place, got {int(holes.sum())} missing or infinite, the first in "
            f"column {names[column]!r}, row {chosen.index[row]!r}. Fill them or drop those rows: one spoils all "
            "sums that it enters."
        )
    _check_numeric(where, chosen)
    return chosen


def _is_transposed(frame: Any, names: Names, missing: int) -> bool:
    """Whether more of the names are names of rows than of columns."""
    try:
        rows = set(map(text, frame.index))
    except (TypeError, ValueError):
        return False  # they are no names
    return len(rows.intersection(names or ())) > len(names or ()) - missing


def _first(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def edge_frame(where: str, topology: Topology, values: Tensor, backwards: bool) -> Any:
    """Source, target and weight of each edge, in the order of the values; backwards from outputs to inputs."""
    pandas = needed(where, "pandas")
    ends = [(topology.inputs, topology.shape[1], topology.col), (topology.outputs, topology.shape[0], topology.row)]
    (source_names, sources, source), (target_names, targets, target) = ends[::-1] if backwards else ends
    weights = values.detach().cpu()
    weights = weights if weights.dtype in (torch.float32, torch.float64) else weights.float()
    columns = {
        "source": named_nodes(source_names, source.tolist()),
        "target": named_nodes(target_names, target.tolist()),
        WEIGHT: array(weights).copy(),
    }
    frame = pandas.DataFrame(columns)
    frame.attrs = {"inputs": source_names or tuple(range(sources)), "outputs": target_names or tuple(range(targets))}
    return frame
