"""The loops of a convolution over one tile of positions, like those of lanes.py: an edge finds its run of numbers by a table
of places, ``start[code[k]]``, in which channel and shift of its tap are one number."""

from typing import Any

from numba import types
from numba.extending import intrinsic

from ..half_vectors import Operand
from ..lanes import add_runs, both_products
from ..vectors import Emit


@intrinsic
def shifted_axpy(
    typing: Any, y: Any, at_y: Any, code: Any, values: Any, first: Any, last: Any, start: Any, panel: Any, at_panel: Any, width: Any
) -> Any:
    """y[at_y : +tile] += sum of values[k] * panel[at_panel + start[code[k]] : +tile] over first <= k < last"""
    signature = types.void(y, at_y, code, values, first, last, start, panel, at_panel, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, y.dtype)
        y_data, code_data, values_data, start_data, panel_data = (emit.data(signature, args, i) for i in (0, 2, 3, 6, 7))
        here, source = emit.at(y_data, args[1]), emit.at(panel_data, args[8])

        def run_of(k: Any) -> Any:
            return emit.at(source, emit.index(start_data, emit.index(code_data, k)))

        add_runs(emit, here, values_data, args[4], args[5], run_of, width.count)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def shifted_backward(
    typing: Any, dx: Any, at_dx: Any, x: Any, at_x: Any, code: Any, weights: Any, grads: Any, at_grads: Any, first: Any, last: Any,
    start: Any, panel: Any, at_panel: Any, width: Any,
) -> Any:
    """One load of dy serves both products: with dy = panel[at_panel + start[code[k]] : +tile],
    dx[at_dx : +tile] += weights[k] * dy and grads[at_grads + k] += x[at_x : +tile] . dy for first <= k < last"""
    signature = types.void(dx, at_dx, x, at_x, code, weights, grads, at_grads, first, last, start, panel, at_panel, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, x.dtype)
        dx_data, x_data, code_data, weights_data, grads_data, start_data, panel_data = (
            emit.data(signature, args, i) for i in (0, 2, 4, 5, 6, 10, 11)
        )
        here, source = emit.at(dx_data, args[1]), emit.at(panel_data, args[12])

        def run_of(k: Any) -> Any:
            return emit.at(source, emit.index(start_data, emit.index(code_data, k)))

        x_here, grads = emit.at(x_data, args[3]), emit.at(grads_data, args[7])
        both_products(emit, here, x_here, weights_data, grads, args[8], args[9], run_of, width.count)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_numbers(typing: Any, x: Any, at_x: Any, y: Any, at_y: Any, numbers: Any) -> Any:
    """y[at_y : +n] = x[at_x : +n], of as many numbers as the tuple ``numbers`` has; one of both may be in half precision"""
    signature = types.void(x, at_x, y, at_y, numbers)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_x, of_y = (Operand(context, builder, each.dtype, numbers.count) for each in (x, y))
        source, here = of_x.at(of_x.data(signature, args, 0), args[1]), of_y.at(of_y.data(signature, args, 2), args[3])
        of_y.store(of_x.load(source), here)
        return context.get_dummy_value()

    return signature, codegen
