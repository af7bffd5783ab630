"""The loops that numba cannot be trusted to compile well, and nothing else.

A *vector* is as wide as the CPU's registers (64, 32 or 16 bytes) and holds ``lanes`` numbers. A *tile* is a run of
``vectors`` vectors, consecutive samples of one feature. The loops below hold a tile in registers while they sweep
the edges of one row, so that an edge costs one load for each fused multiply-add. A plain numba loop over a local array
spills it to memory at every edge, and runs at half the speed.

A loop is emitted for each number of vectors that a tile may have, and one is chosen as a kernel runs: a kernel that was
compiled for a number would be compiled again for the next size of a batch. Arrays are one-dimensional; offsets count
elements. Nothing is checked.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .half_vectors import Operand
from .vectors import I32, I64, Emit
from .width import MOST_GRADIENT_VECTORS, MOST_VECTORS

AHEAD = 3  # rows whose edges are asked for: in a block, those of the next row are somewhere else in memory
GATHERED = 8  # edges of a step where samples are gathered


def add_runs(emit: Emit, here: Any, values: Any, first: Any, last: Any, run_of: Any, vectors: int) -> None:
    """here[: vectors] += sum of values[k] * run_of(k)[: vectors] over first <= k < last, the sums in registers"""

    def body(k: Any, sums: list[Any]) -> list[Any]:
        weight, run = emit.splat(emit.builder.load(emit.at(values, k))), run_of(k)
        return [emit.fma(weight, emit.load(run, i), s) for i, s in enumerate(sums)]

    sums = [emit.load(here, i) for i in range(vectors)]
    for i, s in enumerate(emit.loop(first, last, sums, body)):
        emit.store(s, here, i)


def both_products(
    emit: Emit, here: Any, x: Any, weights: Any, grads: Any, first: Any, last: Any, run_of: Any, vectors: int
) -> None:
    """One load of a run serves both: here += weights[k] * run_of(k) and grads[k] += x . run_of(k) for first <= k < last"""
    held = [emit.load(x, i) for i in range(vectors)]

    def body(edges: list[Any], held_sums: list[Any]) -> list[Any]:
        sums, dots = list(held_sums), []
        for k in edges:
            weight = emit.splat(emit.builder.load(emit.at(weights, k)))
            run, dot = run_of(k), emit.zero
            for i in range(vectors):
                vector = emit.load(run, i)
                sums[i] = emit.fma(weight, vector, sums[i])
                dot = emit.fma(vector, held[i], dot)
            dots.append(dot)
        emit.add_to(emit.at(grads, edges[0]), emit.sums(dots))
        return sums

    sums = [emit.load(here, i) for i in range(vectors)]
    for i, s in enumerate(emit.edges(first, last, sums, body)):
        emit.store(s, here, i)


def each_row(emit: Emit, pointers: Any, block: Any, ahead: list[Any], body: Any) -> None:
    """body(row - first, its first edge, its last edge) for first <= row < last, in a block: where its pointers begin, how far
    it is to those of the next, first and last row. The edges of rows to come are asked for in the arrays ``ahead``."""
    b, (at, step, first, last) = emit.builder, block
    starts, stops = emit.at(pointers, at), emit.at(pointers, b.add(at, step))
    final = b.sub(last, ir.Constant(I64, 1))

    def row(r: Any, _: list[Any]) -> list[Any]:
        coming = b.add(r, ir.Constant(I64, AHEAD))
        k = emit.index(starts, b.select(b.icmp_signed("<", coming, final), coming, final))
        for array in ahead:
            emit.prefetch(emit.at(array, k))
        body(b.sub(r, first), emit.index(starts, r), emit.index(stops, r))
        return []

    emit.loop(first, last, [], row)


@intrinsic
def axpy_rows(
    typing: Any, y: Any, at_y: Any, col: Any, values: Any, pointers: Any, at: Any, step: Any, first: Any, last: Any, panel: Any, at_panel: Any,
    vectors: Any,
) -> Any:
    """y[at_y + (r - first)*tile : +tile] += sum of values[k] * panel[at_panel + col[k]*tile : +tile] over the edges k of
    row r in a block: pointers[at + r] <= k < pointers[at + step + r]"""
    signature = types.void(y, at_y, col, values, pointers, at, step, first, last, panel, at_panel, vectors)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, y.dtype)
        y_data, col_data, values_data, pointers_data, panel_data = (emit.data(signature, args, i) for i in (0, 2, 3, 4, 9))
        sums, source = emit.at(y_data, args[1]), emit.at(panel_data, args[10])

        def of_width(vectors: int) -> None:
            tile = ir.Constant(I64, vectors * emit.lanes)

            def run_of(k: Any) -> Any:
                return emit.at(source, builder.mul(emit.index(col_data, k), tile))

            def of_row(r: Any, start: Any, stop: Any) -> None:
                add_runs(emit, emit.at(sums, builder.mul(r, tile)), values_data, start, stop, run_of, vectors)

            each_row(emit, pointers_data, args[5:9], [col_data, values_data], of_row)

        emit.by_width(args[11], MOST_VECTORS, of_width)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dot_rows(
    typing: Any, a: Any, at_a: Any, col: Any, out: Any, at_out: Any, pointers: Any, at: Any, step: Any, first: Any, last: Any, panel: Any,
    at_panel: Any, vectors: Any,
) -> Any:
    """out[at_out + k] += a[at_a + (r - first)*tile : +tile] . panel[at_panel + col[k]*tile : +tile] for the edges k of row r
    in a block, as for axpy_rows"""
    signature = types.void(a, at_a, col, out, at_out, pointers, at, step, first, last, panel, at_panel, vectors)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, a.dtype)
        a_data, col_data, out_data, pointers_data, panel_data = (emit.data(signature, args, i) for i in (0, 2, 3, 5, 10))
        rows, source, sums = emit.at(a_data, args[1]), emit.at(panel_data, args[11]), emit.at(out_data, args[4])

        def of_width(vectors: int) -> None:
            tile = ir.Constant(I64, vectors * emit.lanes)

            def of_row(r: Any, start: Any, stop: Any) -> None:
                here = emit.at(rows, builder.mul(r, tile))
                held = [emit.load(here, i) for i in range(vectors)]

                def body(edges: list[Any], _: list[Any]) -> list[Any]:
                    dots = []
                    for k in edges:
                        b, dot = emit.at(source, builder.mul(emit.index(col_data, k), tile)), emit.zero
                        for i, vector in enumerate(held):
                            dot = emit.fma(vector, emit.load(b, i), dot)
                        dots.append(dot)
                    emit.add_to(emit.at(sums, edges[0]), emit.sums(dots))
                    return []

                emit.edges(start, stop, [], body)

            each_row(emit, pointers_data, args[6:10], [col_data], of_row)

        emit.by_width(args[12], MOST_VECTORS, of_width)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def backward_rows(
    typing: Any, dx: Any, at_dx: Any, x: Any, at_x: Any, row: Any, weights: Any, at_weights: Any, grads: Any, at_grads: Any, pointers: Any,
    at: Any, step: Any, first: Any, last: Any, panel: Any, at_panel: Any, vectors: Any,
) -> Any:
    """One load of dy serves both products: with dy = panel[at_panel + row[k]*tile : +tile] and c = (column - first)*tile,
    dx[at_dx + c : +tile] += weights[at_weights + k] * dy and grads[at_grads + k] += x[at_x + c : +tile] . dy for the edges k
    of a column in a block, as for axpy_rows"""
    signature = types.void(dx, at_dx, x, at_x, row, weights, at_weights, grads, at_grads, pointers, at, step, first, last, panel, at_panel, vectors)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, x.dtype)
        dx_data, x_data, row_data, weights_data, grads_data, pointers_data, panel_data = (
            emit.data(signature, args, i) for i in (0, 2, 4, 5, 7, 9, 14)
        )
        sums, inputs, source = emit.at(dx_data, args[1]), emit.at(x_data, args[3]), emit.at(panel_data, args[15])
        weights, grads = emit.at(weights_data, args[6]), emit.at(grads_data, args[8])

        def of_width(vectors: int) -> None:
            tile = ir.Constant(I64, vectors * emit.lanes)

            def run_of(k: Any) -> Any:
                return emit.at(source, builder.mul(emit.index(row_data, k), tile))

            def of_column(c: Any, start: Any, stop: Any) -> None:
                place = builder.mul(c, tile)
                both_products(emit, emit.at(sums, place), emit.at(inputs, place), weights, grads, start, stop, run_of, vectors)

            each_row(emit, pointers_data, args[10:14], [row_data], of_column)

        emit.by_width(args[16], MOST_GRADIENT_VECTORS, of_width)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_sums(typing: Any, panel: Any, at_panel: Any, features: Any, out: Any, at_out: Any, vectors: Any) -> Any:
    """out[at_out + f] += sum of panel[at_panel + f*tile : +tile] for f < features"""
    signature = types.void(panel, at_panel, features, out, at_out, vectors)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, panel.dtype)
        source, there = emit.at(emit.data(signature, args, 0), args[1]), emit.at(emit.data(signature, args, 3), args[4])
        lanes = ir.Constant(I64, emit.lanes)
        tile = builder.mul(args[5], lanes)

        def body(features: list[Any], _: list[Any]) -> list[Any]:
            runs = [emit.at(source, builder.mul(f, tile)) for f in features]

            def add(i: Any, totals: list[Any]) -> list[Any]:
                shift = builder.mul(i, lanes)
                return [builder.fadd(total, emit.load(emit.at(x, shift))) for total, x in zip(totals, runs, strict=True)]

            totals = emit.loop(ir.Constant(I64, 1), args[5], [emit.load(x) for x in runs], add)
            emit.add_to(emit.at(there, features[0]), emit.sums(totals))
            return []

        emit.edges(ir.Constant(I64, 0), args[2], [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def gather_dot(typing: Any, values: Any, col: Any, samples: Any, at: Any, start: Any, stop: Any) -> Any:
    """sum of values[k] * samples[at + col[k]] over start <= k < stop. Loads are what it waits for: eight values come with
    one, and two columns of 32 bits."""
    signature = values.dtype(values, col, samples, at, start, stop)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, values.dtype, GATHERED)
        values_data, col_data, samples_data = (emit.data(signature, args, i) for i in range(3))
        sample = emit.at(samples_data, args[3])
        whole = builder.add(args[4], builder.and_(builder.sub(args[5], args[4]), ir.Constant(I64, -GATHERED)))

        def eight(k: Any, sums: list[Any]) -> list[Any]:
            x = ir.Constant(emit.vector, ir.Undefined)
            for i, place in enumerate(emit.indices(col_data, k)):
                x = builder.insert_element(x, builder.load(emit.at(sample, place)), ir.Constant(I32, i))
            return [emit.fma(emit.load(emit.at(values_data, k)), x, sums[0])]

        def one(k: Any, sums: list[Any]) -> list[Any]:
            x = builder.load(emit.at(sample, emit.index(col_data, k)))
            product = builder.fmul(builder.load(emit.at(values_data, k)), x, flags=("contract",))
            return [builder.fadd(sums[0], product, flags=("contract",))]

        total = emit.sum(emit.loop(args[4], whole, [emit.zero], eight, GATHERED)[0])
        return emit.loop(whole, args[5], [total], one)[0]

    return signature, codegen


@intrinsic
def fill_tile(typing: Any, y: Any, at_y: Any, value: Any, width: Any) -> Any:
    """y[at_y : +tile] = value, a tile of as many vectors as the tuple ``width`` is long"""
    signature = types.void(y, at_y, value, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, y.dtype)
        here, vector = emit.at(emit.data(signature, args, 0), args[1]), emit.splat(args[2])
        for i in range(width.count):
            emit.store(vector, here, i)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def begin_rows(typing: Any, y: Any, at_y: Any, bias: Any, first: Any, last: Any, vectors: Any) -> Any:
    """y[at_y + (r - first)*tile : +tile] = bias[r] for first <= r < last, or 0 where bias is of size 0"""
    signature = types.void(y, at_y, bias, first, last, vectors)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, y.dtype)
        sums, biases = emit.at(emit.data(signature, args, 0), args[1]), emit.data(signature, args, 2)
        zero = cgutils.alloca_once_value(builder, ir.Constant(emit.scalar, 0.0))
        some = builder.icmp_signed(">", context.make_array(bias)(context, builder, args[2]).nitems, ir.Constant(I64, 0))

        def of_width(vectors: int) -> None:
            def of_row(r: Any, _: list[Any]) -> list[Any]:
                vector = emit.splat(builder.load(builder.select(some, emit.at(biases, r), zero)))
                here = emit.at(sums, builder.mul(builder.sub(r, args[3]), ir.Constant(I64, vectors * emit.lanes)))
                for i in range(vectors):
                    emit.store(vector, here, i)
                return []

            emit.loop(args[3], args[4], [], of_row)

        emit.by_width(args[5], MOST_VECTORS, of_width)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_vector(typing: Any, x: Any, at_x: Any, y: Any, at_y: Any) -> Any:
    """y[at_y : +lanes] = x[at_x : +lanes]; one of both may be in half precision"""
    signature = types.void(x, at_x, y, at_y)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_x, of_y = Operand(context, builder, x.dtype), Operand(context, builder, y.dtype)
        source, here = of_x.at(of_x.data(signature, args, 0), args[1]), of_y.at(of_y.data(signature, args, 2), args[3])
        of_y.store(of_x.load(source), here)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose_block(typing: Any, source: Any, at_source: Any, source_stride: Any, out: Any, at_out: Any, out_stride: Any) -> Any:
    """out[at_out + j*out_stride + i] = source[at_source + i*source_stride + j] for i, j < lanes, in registers:
    log2(lanes) rounds, each of which exchanges blocks of half the size between two rows. One of both may be in half precision."""
    signature = types.void(source, at_source, source_stride, out, at_out, out_stride)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit, of_out = Operand(context, builder, source.dtype), Operand(context, builder, out.dtype)
        n = emit.lanes
        here = emit.at(emit.data(signature, args, 0), args[1])
        there = emit.at(emit.data(signature, args, 3), args[4])
        rows = [emit.load(emit.at(here, builder.mul(args[2], ir.Constant(I64, i)))) for i in range(n)]
        half = n // 2
        while half:
            new = list(rows)
            for i in range(n):
                if not i & half:
                    low = [j if not j & half else n + j - half for j in range(n)]
                    high = [j + half if not j & half else n + j for j in range(n)]
                    new[i] = emit.shuffle(rows[i], rows[i + half], low)
                    new[i + half] = emit.shuffle(rows[i], rows[i + half], high)
            rows, half = new, half // 2
        for j, row in enumerate(rows):
            of_out.store(row, emit.at(there, builder.mul(args[5], ir.Constant(I64, j))))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def ask(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of array[at], which is read a little later."""
    return types.void(array, at), _asking(3)


@intrinsic
def ask_early(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of array[at], which is used so much later that it would be in the way in L1."""
    return types.void(array, at), _asking(2)


def _asking(locality: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, types.float32)
        emit.prefetch(emit.at(emit.data(signature, args, 0), args[1]), locality)
        return context.get_dummy_value()

    return codegen
