"""Every kernel against its plain twin and a float64 dense product."""

import math
import os
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sparsetrain_kernels as kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import pack, unpack
from scipy.sparse import csr_array
from sparsetrain_kernels import launch, reference
from sparsetrain_kernels.backward import backward_kernel
from sparsetrain_kernels.narrow import NARROW
from sparsetrain_kernels.panels import OWN_BYTES, flat, sweeps, tile_width
from sparsetrain_kernels.plan import GRADIENTS, PRODUCT, Block, segments
from sparsetrain_kernels.sddmm import sddmm_kernel
from sparsetrain_kernels.spmm import spmm_kernel
from sparsetrain_kernels.subnormals import X86
from sparsetrain_kernels.vectors import lanes
from sparsetrain_kernels.width import MOST_VECTORS, TILE_BYTES, VECTOR_BYTES, WIDTHS, host_bytes
from structures import LAYOUTS, Array, Structure, laid_out, structure_of, structures

# products are summed in another order than the oracle's: an error per term, so of the length of the longest sum
UNIT = {np.dtype(np.float32): 1.2e-7, np.dtype(np.float64): 2.3e-16}

# a width of vectors that is not the host's differs in little, and is compiled for each type (tests/test_vector_width.py)
NARROWED = host_bytes() > VECTOR_BYTES
some = settings(max_examples=15 if NARROWED else 40, deadline=None)
dtypes = st.sampled_from([np.float32] if NARROWED and min(WIDTHS) < VECTOR_BYTES else [np.float32, np.float64])
ONE_TILE = (MOST_VECTORS, 0)
VECTORS = st.sampled_from(
    [*range(1, MOST_VECTORS + 2), 2 * MOST_VECTORS]
)  # of a batch: tiles of each width, one or two
sizes = st.one_of(st.sampled_from([1, NARROW]), st.tuples(VECTORS, st.sampled_from([0, 1])))
BLOCKS = (Block(64, 6, 128),)  # whatever this CPU's caches are
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)


def close(got: Array, exact: Array, magnitude: Array, terms: int) -> None:
    """Within rounding: a unit in the last place of the sum of magnitudes for each term."""
    bound = (terms + 2) * UNIT[got.dtype] * magnitude
    worst = np.abs(got - exact) - bound
    assert got.shape == exact.shape
    assert not got.size or worst.max() <= 0, (
        f"off by {np.abs(got - exact).max():.2e} at {np.unravel_index(worst.argmax(), worst.shape)}"
    )


def batch_of(size: Any, dtype: type) -> int:
    """Samples: as many as fill some vectors of this CPU, or less by a few."""
    return size[0] * lanes(dtype) - size[1] if isinstance(size, tuple) else size


def numbers(seed: int, *shape: int, dtype: type = np.float64) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def blank(features: int, batch: int, dtype: type, layout: str) -> Array:
    return laid_out(np.full((features, batch), np.nan, dtype), layout)


@some
@given(structures(), sizes, dtypes, layouts, layouts, st.booleans(), seeds)
def test_spmm(s: Structure, size: Any, dtype: type, layout: str, out: str, with_bias: bool, seed: int) -> None:
    batch = batch_of(size, dtype)
    values, x = (
        numbers(seed, s.col.size, dtype=dtype),
        laid_out(numbers(seed + 1, s.columns, batch, dtype=dtype), layout),
    )
    bias = numbers(seed + 2, s.rows, dtype=dtype) if with_bias else None
    plan = kernels.plan(s.crow, s.col, s.columns)
    y, twin = blank(s.rows, batch, dtype, out), blank(s.rows, batch, dtype, "row-major")
    kernels.spmm(plan, values, x, y, bias)
    reference.spmm(plan, values, x, twin, bias)
    dense, shift = s.dense(values), 0 if bias is None else bias.astype(np.float64)[:, None]
    exact, magnitude = dense @ x + shift, np.abs(dense) @ np.abs(x) + np.abs(shift)
    close(y, exact, magnitude, s.columns)
    close(twin, exact, magnitude, s.columns)


@some
@given(structures(), sizes, dtypes, layouts, layouts, seeds)
def test_sddmm(s: Structure, size: Any, dtype: type, layout_a: str, layout_b: str, seed: int) -> None:
    batch = batch_of(size, dtype)
    a = laid_out(numbers(seed, s.rows, batch, dtype=dtype), layout_a)
    b = laid_out(numbers(seed + 1, s.columns, batch, dtype=dtype), layout_b)
    plan = kernels.plan(s.crow, s.col, s.columns)
    out, twin = np.full(s.col.size, np.nan, dtype), np.full(s.col.size, np.nan, dtype)
    kernels.sddmm(plan, a, b, out)
    reference.sddmm(plan, a, b, twin)
    exact = (a.astype(np.float64) @ b.T.astype(np.float64))[s.row, s.col]
    magnitude = (np.abs(a).astype(np.float64) @ np.abs(b.T))[s.row, s.col]
    close(out, exact, magnitude, batch)
    close(twin, exact, magnitude, batch)


@some
@given(structures(), sizes, dtypes, layouts, layouts, seeds)
def test_backward(s: Structure, size: Any, dtype: type, layout_x: str, layout_dy: str, seed: int) -> None:
    batch = batch_of(size, dtype)
    values = numbers(seed, s.col.size, dtype=dtype)
    x = laid_out(numbers(seed + 1, s.columns, batch, dtype=dtype), layout_x)
    dy = laid_out(numbers(seed + 2, s.rows, batch, dtype=dtype), layout_dy)
    crow_t, col_t, perm = kernels.transpose(s.crow, s.col, s.columns)
    plan_t, dense = kernels.plan(crow_t, col_t, s.rows), s.dense(values)
    exact = (x.astype(np.float64) @ dy.T.astype(np.float64)).T[s.row, s.col]
    magnitude = (np.abs(x).astype(np.float64) @ np.abs(dy.T)).T[s.row, s.col]
    for run in (kernels.backward, reference.backward):
        dx, grad = blank(s.columns, batch, dtype, layout_x), np.full(s.col.size, np.nan, dtype)
        bias_grad = np.full(s.rows, np.nan, dtype)
        run(plan_t, perm, values, x, dy, dx, grad, bias_grad)
        close(bias_grad, dy.sum(1, dtype=np.float64), np.abs(dy).sum(1, dtype=np.float64), batch)
        close(dx, dense.T @ dy, np.abs(dense.T) @ np.abs(dy), s.rows)
        close(grad, exact, magnitude, batch)


@some
@given(structures())
def test_transpose(s: Structure) -> None:
    arrays, twins = kernels.transpose(s.crow, s.col, s.columns), reference.transpose(s.crow, s.col, s.columns)
    for got, expected in zip(arrays, twins, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype


@some
@given(st.integers(1, 40), st.integers(1, 150), dtypes, layouts, st.sampled_from([1, 2, 3, 8]), seeds)
def test_pack_and_unpack(features: int, batch: int, dtype: type, layout: str, vectors: int, seed: int) -> None:
    x = laid_out(numbers(seed, features, batch, dtype=dtype), layout)
    tile = vectors * lanes(dtype)
    first, sample = seed % features, batch - 1 - seed % batch
    got, twin = (np.full(7 + (features - first) * tile, np.nan, dtype) for _ in range(2))
    pack(*flat(x), first, features, sample, batch, got, 7, vectors)
    # a view keeps only its start in the flat form: the twin reads it from a copy
    reference.pack(*flat(np.ascontiguousarray(x)), first, features, sample, batch, twin, 7, vectors)
    np.testing.assert_array_equal(got, twin)
    back = laid_out(np.zeros((features, batch), dtype), layout)
    unpack(got, 7, first, features, *flat(back), sample, batch, vectors)
    plain = np.zeros((features, batch), dtype)
    reference.unpack(got, 7, first, features, *flat(plain), sample, batch, vectors)
    np.testing.assert_array_equal(back, plain)
    np.testing.assert_array_equal(plain[first:, sample : sample + tile], x[first:, sample : sample + tile])


@some
@given(st.integers(0, 40), st.sampled_from([0, 1, 5]), dtypes, layouts, seeds)
def test_used(features: int, batch: int, dtype: type, layout: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.choice([0.0, -0.0, 1.0, -2.0, np.nan], (features, batch), p=[0.6, 0.3, 0.04, 0.03, 0.03]).astype(dtype)
    np.testing.assert_array_equal(kernels.used(laid_out(x, layout)), reference.used(x))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_used_in_several_blocks(layout: str) -> None:
    x = (np.random.default_rng(0).random((20_000, 50)) < 0.01).astype(np.float32)
    for threads in (1, 2):
        np.testing.assert_array_equal(kernels.used(laid_out(x, layout), threads), x.any(1))


def test_int64_indices() -> None:
    s = structure_of(np.random.default_rng(0).random((9, 7)) < 0.5, np.int64)
    values, x, dy = numbers(1, s.col.size), numbers(2, 7, 5), numbers(3, 9, 5)
    crow_t, col_t, perm = kernels.transpose(s.crow, s.col, 7)
    assert {array.dtype for array in (crow_t, col_t, perm)} == {np.dtype(np.int64)}
    y, dx, grad, out = np.empty((9, 5)), np.empty((7, 5)), np.empty_like(values), np.empty_like(values)
    kernels.spmm(kernels.plan(s.crow, s.col, 7), values, x, y)
    kernels.sddmm(kernels.plan(s.crow, s.col, 7), dy, x, out)
    kernels.backward(kernels.plan(crow_t, col_t, 9), perm, values, x, dy, dx, grad)
    dense, sampled = s.dense(values), (dy @ x.T)[s.row, s.col]
    for got, exact in ((y, dense @ x), (dx, dense.T @ dy), (grad, sampled), (out, sampled)):
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-13)


SEVERAL = (3 * MOST_VECTORS, 1)  # vectors of a batch: three tiles, the last not full


def wide(
    dtype: type = np.float32, size: Any = ONE_TILE, density: float = 0.15
) -> tuple[Structure, Array, Array, Array]:
    """A structure with several chunks and column blocks, of enough work for two threads."""
    s, batch = structure_of(np.random.default_rng(0).random((300, 420)) < density), batch_of(size, dtype)
    return (
        s,
        numbers(1, s.col.size, dtype=dtype),
        numbers(2, s.columns, batch, dtype=dtype),
        numbers(3, s.rows, batch, dtype=dtype),
    )


def all_products(threads: int, dtype: type = np.float32, size: Any = ONE_TILE, density: float = 0.15) -> list[Array]:
    s, values, x, dy = wide(dtype, size, density)
    batch = x.shape[1]
    plan = kernels.plan(s.crow, s.col, s.columns, BLOCKS)
    crow_t, col_t, perm = kernels.transpose(s.crow, s.col, s.columns)
    y, out = blank(s.rows, batch, dtype, "row-major"), np.empty_like(values)
    dx, grad, bias_grad = blank(s.columns, batch, dtype, "row-major"), np.empty_like(values), np.empty(s.rows, dtype)
    kernels.spmm(plan, values, x, y, threads=threads)
    kernels.sddmm(plan, dy, x, out, threads=threads)
    plan_t = kernels.plan(crow_t, col_t, s.rows, BLOCKS)
    kernels.backward(plan_t, perm, values, x, dy, dx, grad, bias_grad, threads=threads)
    return [y, out, dx, grad, bias_grad]


def assert_exact(s: Structure, values: Array, x: Array, dy: Array, products: list[Array]) -> None:
    dense, sampled = s.dense(values), (dy @ x.T)[s.row, s.col]
    for got, exact in zip(products, (dense @ x, sampled, dense.T @ dy, sampled, dy.sum(1)), strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-11)


def test_blocks_are_used_and_exact() -> None:
    s, values, x, dy = wide(np.float64)
    plan = kernels.plan(s.crow, s.col, s.columns, BLOCKS)
    assert plan.blocks > 1
    assert plan.bounds.size > 3
    assert plan.nbytes - plan.bounds.nbytes <= s.col.size / 4 * plan.pointers.itemsize
    assert_exact(s, values, x, dy, all_products(1, np.float64))


@pytest.mark.parametrize("widths", [PRODUCT, GRADIENTS])
def test_blocks_of_this_cpu(widths: tuple[Block, ...]) -> None:
    """A block's part of the panel stays in the cache that it is meant for, at any width of vectors."""
    narrowest = widths[0]
    s = structure_of(np.random.default_rng(0).random((40, narrowest.least)) < 0.4)
    assert kernels.plan(s.crow, s.col, s.columns, widths).blocks == -(-s.columns // narrowest.columns) > 1
    assert 1 << 14 <= narrowest.columns * TILE_BYTES <= 1 << 21


def test_segments_of_the_samples_are_used_and_exact() -> None:
    s, values, x, dy = wide(np.float64, SEVERAL, 0.02)
    assert segments(kernels.plan(s.crow, s.col, s.columns), x.shape[1], MOST_VECTORS, x.dtype) > 1
    assert_exact(s, values, x, dy, all_products(1, np.float64, SEVERAL, 0.02))


def test_panels_too_large_for_each_worker_are_packed_together() -> None:
    """Both operands have more features than a worker packs for itself."""
    features, batch, generator = OWN_BYTES // TILE_BYTES + 1, batch_of(SEVERAL, np.float32), np.random.default_rng(0)
    assert tile_width(batch, np.dtype(np.float32)) == MOST_VECTORS
    row, col = np.unique(generator.integers(0, features, (20_000, 2)), axis=0).T.astype(np.int32, order="C")
    crow = np.searchsorted(row, np.arange(features + 1)).astype(np.int32)
    values, x, dy = (numbers(seed, *shape, dtype=np.float32) for seed, shape in
                     ((1, (col.size,)), (2, (features, batch)), (3, (features, batch))))  # fmt: skip
    plan, (crow_t, col_t, perm) = kernels.plan(crow, col, features), kernels.transpose(crow, col, features)
    plan_t = kernels.plan(crow_t, col_t, features)
    matrix = csr_array((values.astype(np.float64), col, crow), (features, features))
    terms = max(int(np.diff(crow).max()), int(np.diff(crow_t).max()))
    sampled = np.einsum("ij,ij->i", dy[row], x[col], dtype=np.float64), np.einsum("ij,ij->i", abs(dy[row]), abs(x[col]))
    for threads in (1, 2):
        y, dx, out, grad = np.empty_like(x), np.empty_like(x), np.empty_like(values), np.empty_like(values)
        bias_grad = np.empty(features, np.float32)
        kernels.spmm(plan, values, x, y, threads=threads)
        kernels.sddmm(plan, dy, x, out, threads=threads)
        kernels.backward(plan_t, perm, values, x, dy, dx, grad, bias_grad, threads=threads)
        close(y, matrix @ x, abs(matrix) @ abs(x), terms)
        close(dx, matrix.T @ dy, abs(matrix.T) @ abs(dy), terms)
        close(out, *sampled, batch)
        close(grad, *sampled, batch)
        close(bias_grad, dy.sum(1, dtype=np.float64), abs(dy).sum(1), batch)


CASES = [(NARROW, 0.6), (ONE_TILE, 0.15), (SEVERAL, 0.6), (SEVERAL, 0.05)]  # gathered, a tile, several, in segments


@pytest.mark.parametrize(("size", "density"), CASES)
def test_results_do_not_depend_on_threads(size: Any, density: float) -> None:
    s, _, x, _ = wide(size=size, density=density)
    batch = x.shape[1]
    work = s.col.size * (batch if batch <= NARROW else sweeps(batch, x.dtype, tile_width(batch, x.dtype)))
    assert work > launch.PARALLEL_WORK  # or two threads were never asked
    found = [all_products(threads, size=size, density=density) for threads in (1, 2, 3)]
    for results in zip(*found, strict=True):
        for other in results[1:]:
            np.testing.assert_array_equal(results[0], other)
    for verb in ("spmm", "sddmm", "backward"):
        name = f"narrow_{verb}_kernel" if batch <= NARROW else f"{verb}_kernel"
        ran = {together for kernel, _, together in launch._process.ready if kernel.__name__ == name}
        assert ran == {False, True}


def test_one_compilation_serves_batches_of_all_sizes_and_threads() -> None:
    all_products(1, size=ONE_TILE, density=0.6)
    compiled = [len(each.signatures) for each in (spmm_kernel, sddmm_kernel, backward_kernel)]
    for threads, vectors in product((1, 2), range(1, MOST_VECTORS + 2)):
        all_products(threads, size=(vectors, 0), density=0.6)
    assert [len(each.signatures) for each in (spmm_kernel, sddmm_kernel, backward_kernel)] == compiled


def test_a_worker_may_begin_within_a_segment() -> None:
    (size, density), dtype = CASES[-1], np.dtype(np.float32)
    s, _, x, _ = wide(size=size, density=density)
    assert segments(kernels.plan(s.crow, s.col, s.columns), x.shape[1], MOST_VECTORS, dtype) % 2 == 1


def test_concurrent_calls() -> None:
    expected, found = all_products(2), []
    threads = [threading.Thread(target=lambda: found.append(all_products(2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for products in found:
        for got, exact in zip(products, expected, strict=True):
            np.testing.assert_array_equal(got, exact)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_computes_on_one_thread() -> None:
    expected = all_products(2)  # numba's threads run in the parent
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(a, b) for a, b in zip(all_products(2), expected, strict=True))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("size", [1, ONE_TILE])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_propagate(bad: float, size: Any) -> None:
    s, values, x, dy = wide(size=size)
    batch = x.shape[1]
    x[5, batch // 3] = dy[11, batch // 2] = bad
    plan = kernels.plan(s.crow, s.col, s.columns)
    y, twin = blank(s.rows, batch, np.float32, "row-major"), blank(s.rows, batch, np.float32, "row-major")
    kernels.spmm(plan, values, x, y)
    with np.errstate(invalid="ignore"):
        reference.spmm(plan, values, x, twin)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(twin))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(twin))
    crow_t, col_t, perm = kernels.transpose(s.crow, s.col, s.columns)
    plan_t, found = kernels.plan(crow_t, col_t, s.rows), []
    for run in (kernels.backward, reference.backward):
        dx, grad = blank(s.columns, batch, np.float32, "row-major"), np.empty_like(values)
        with np.errstate(invalid="ignore"):
            run(plan_t, perm, values, x, dy, dx, grad)
        found.append((np.isfinite(dx), np.isfinite(grad), np.isnan(grad)))
    for got, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.skipif(not X86, reason="subnormals are flushed on x86 only")
def test_subnormals_are_flushed_and_the_mode_restored() -> None:
    s = structure_of(np.eye(4, dtype=bool))
    tiny = np.full(4, 1e-40, np.float32)
    y = np.empty((4, 4), np.float32)
    for samples in (4, 1):  # in tiles, and gathered
        kernels.spmm(kernels.plan(s.crow, s.col, 4), tiny, np.eye(4, samples, dtype=np.float32), y[:, :samples])
        np.testing.assert_array_equal(y[:, :samples], np.zeros((4, samples)))
    assert (tiny * np.float32(1)).all()  # outside the kernel they are numbers again


@pytest.mark.parametrize(
    ("filled", "vectors"), [(0.1, 1), (1, 1), (1.1, 2), (4, 4), (6, 6), (6.3, 7), (8, 8), (8.2, 5), (56, 8)]
)
def test_tile_width_wastes_little(filled: float, vectors: int) -> None:
    dtype = np.dtype(np.float32)
    assert tile_width(math.ceil(filled * lanes(dtype)), dtype) == vectors


def test_skewed_rows_are_shared_out() -> None:
    mask = np.zeros((1000, 600), bool)
    mask[:20] = True
    mask[:, 0] = True
    s = structure_of(mask)
    bounds = kernels.plan(s.crow, s.col, 600).bounds
    rows, edges = np.diff(bounds), np.diff(s.crow[bounds])
    assert bounds[0] == 0
    assert bounds[-1] == 1000
    assert rows.max() <= 2 * 64 + 16
    assert edges.max() <= 16 * 600 + 2 * s.col.size / (1000 / 64)


def test_a_changed_source_is_compiled_anew(tmp_path: Path) -> None:
    """numba would serve the cached machine code of a function whose own file is unchanged."""
    package = tmp_path / "sparsetrain_kernels"
    package.mkdir()
    for source in Path(kernels.__file__).parent.glob("*.py"):
        (package / source.name).write_text(source.read_text())
    program = (
        "import numpy as np, sparsetrain_kernels as k; y = np.empty((1, 4));"
        "k.spmm(k.plan(np.array([0, 1]), np.array([0]), 1), np.ones(1), np.ones((1, 4)), y); print(y[0, 0])"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run() -> float:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    assert run() == 1.0
    lanes_source = package / "lanes.py"
    text = lanes_source.read_text()
    changed = text.replace(
        "emit.fma(weight, emit.load(run, i), s)", "emit.fma(weight, emit.fma(weight, emit.load(run, i), s), s)"
    )
    assert changed != text
    lanes_source.write_text(changed.replace('"""y[at_y', '"""(changed) y[at_y'))
    program = program.replace("np.ones(1),", "np.full(1, 2.0),")
    assert run() == 4.0  # weight times weight
