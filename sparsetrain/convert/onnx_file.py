"""A model as an ONNX file, with its zeros in it."""

import os
from typing import Any

import torch
from torch import nn

from ..extras import needed
from .dense_copy import dense_copy


def to_onnx(model: nn.Module, args: tuple[Any, ...], path: str | os.PathLike[str], **options: Any) -> Any:
    """Write the dense copy of a model, in evaluation mode, as an ONNX file. The model is not changed.

    ONNX has sparse tensors, but no runtime that multiplies by them, so weights are dense, and exactly zero where there
    is no edge: runtimes that use zeros find them there. See the guide on export.

    Args:
        model: any module.
        args: a tuple of example inputs.
        path: of the file.
        options: of torch.onnx.export: ``dynamic_shapes``, ``input_names``, ``output_names``, ``opset_version``.

    Returns:
        torch.onnx.ONNXProgram.

    Raises:
        ModuleNotFoundError: onnxscript is not installed; the message says how to get it. TypeError: it is no module,
            or args is no tuple. What torch.onnx.export raises.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> x, batch = torch.randn(2, 20), torch.export.Dim("batch")
        >>> program = to_onnx(SparseLinear(20, 5, density=0.1), (x,), path, dynamic_shapes=({0: batch},))
        ... # doctest: +SKIP
    """
    where = "convert.to_onnx"
    if not isinstance(args, tuple):
        raise TypeError(f"{where}: expected args to be a tuple of inputs, got {type(args).__name__}.")
    dense = dense_copy(model).eval()
    needed(where, "onnxscript")
    options = {"verbose": False, **options}
    with torch.no_grad():
        return torch.onnx.export(dense, args, os.fspath(path), dynamo=True, **options)
