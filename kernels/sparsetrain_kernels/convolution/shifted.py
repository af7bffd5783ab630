"""The loops of a convolution over one tile of positions, like those of lanes.py: an edge finds its run of numbers by a table
of places, ``start[code[k]]``, in which channel and shift of its tap are one number."""

from typing import Any

from numba import types
from numba.extending import intrinsic

from ..half_vectors import Operand
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

        def body(k: Any, sums: list[Any]) -> list[Any]:
            weight = emit.splat(builder.load(emit.at(values_data, k)))
            x = emit.at(source, emit.index(start_data, emit.index(code_data, k)))
            return [emit.fma(weight, emit.load(x, i), s) for i, s in enumerate(sums)]

        sums = [emit.load(here, i) for i in range(width.count)]
        for i, s in enumerate(emit.loop(args[4], args[5], sums, body)):
            emit.store(s, here, i)
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
        held = [emit.load(emit.at(x_data, args[3]), i) for i in range(width.count)]

        def body(edges: list[Any], held_sums: list[Any]) -> list[Any]:
            sums, dots = list(held_sums), []
            for k in edges:
                weight = emit.splat(builder.load(emit.at(weights_data, k)))
                dy, dot = emit.at(source, emit.index(start_data, emit.index(code_data, k))), emit.zero
                for i in range(width.count):
                    vector = emit.load(dy, i)
                    sums[i] = emit.fma(weight, vector, sums[i])
                    dot = emit.fma(vector, held[i], dot)
                dots.append(dot)
            emit.add_to(emit.at(grads_data, builder.add(edges[0], args[7])), emit.sums(dots))
            return sums

        sums = [emit.load(here, i) for i in range(width.count)]
        for i, s in enumerate(emit.edges(args[8], args[9], sums, body)):
            emit.store(s, here, i)
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
