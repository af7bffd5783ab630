"""Numbers in half precision, all of them: read exactly, written to the nearest."""

import numpy as np
import pytest
import sparsetrain_kernels as kernels
import torch
from packing import pack, unpack
from sparsetrain_kernels.half_precision import BFLOAT16, FLOAT16, rounded, widened
from sparsetrain_kernels.narrow import NARROW
from sparsetrain_kernels.panels import flat
from sparsetrain_kernels.subnormals import X86
from sparsetrain_kernels.vectors import lanes
from sparsetrain_kernels.width import MOST_VECTORS
from structures import LAYOUTS, Structure, laid_out

HALVES = {"float16": FLOAT16, "bfloat16": BFLOAT16}
FULL = MOST_VECTORS * lanes(np.float32)  # samples of the widest tile
EVERY = np.arange(1 << 16).astype(np.uint16)  # number of 16 bits


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", HALVES)
def test_conversions_of_every_number(name: str, layout: str) -> None:
    """As numpy and torch convert: what is read is exact, what is written the nearest, ties to even."""
    dtype, torch_dtype, features = HALVES[name], getattr(torch, name), 64
    x, panel = laid_out(EVERY.view(dtype).reshape(features, -1), layout), np.empty(features * FULL, np.float32)
    exact = torch.from_numpy(EVERY.view(np.int16)).view(torch_dtype).float().numpy().reshape(features, -1)
    np.testing.assert_array_equal(widened(x), exact)
    batch = x.shape[1]
    for sample in range(0, batch, FULL):
        pack(*flat(x), 0, features, sample, batch, panel, 0, MOST_VECTORS)
        np.testing.assert_array_equal(panel.reshape(features, FULL), exact[:, sample : sample + FULL])
    # float32's between any two neighbours: the middle, and what is next to it; and beyond the largest
    finite = np.sort(exact[np.isfinite(exact)].astype(np.float64))
    middle = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    special = np.array([65519.996, 65520, 3.4028235e38, np.inf, np.nan, 1e-45, 0, 2.0**-25], np.float32)
    wanted = [
        middle,
        np.nextafter(middle, np.inf),
        np.nextafter(middle, -np.inf),
        finite.astype(np.float32),
        special,
        -special,
    ]
    source = np.concatenate(wanted)
    source = np.append(source, np.zeros(-source.size % (features * FULL), np.float32)).reshape(-1, features, FULL)
    y = laid_out(np.zeros((features, FULL), dtype), layout)
    for part in source:
        unpack(part.reshape(-1), 0, 0, features, *flat(y), 0, FULL, MOST_VECTORS)
        nearest = torch.from_numpy(part).to(torch_dtype).float().numpy()
        np.testing.assert_array_equal(widened(y), nearest)
        np.testing.assert_array_equal(widened(rounded(part, dtype)), nearest)
        np.testing.assert_array_equal(np.signbit(widened(y)), np.signbit(part))


@pytest.mark.parametrize("bits", [0x7F800001, 0xFFBFFFFF, 0x7FC00000, 0x7F80FFFF])
@pytest.mark.parametrize("name", HALVES)
def test_nan_stays_nan(name: str, bits: int) -> None:
    nan, y = np.full(FULL, bits, np.uint32).view(np.float32), np.zeros(FULL, HALVES[name])
    unpack(nan, 0, 0, 1, *flat(y[None]), 0, FULL, MOST_VECTORS)
    assert np.isnan(widened(y)).all()
    assert np.isnan(widened(rounded(nan, y.dtype))).all()


def identity(size: int) -> Structure:
    return Structure(size, size, np.arange(size + 1, dtype=np.int32), np.arange(size, dtype=np.int32))


@pytest.mark.parametrize("batch", [NARROW, 2 * FULL], ids=["gathered", "tiles"])
@pytest.mark.parametrize("name", HALVES)
def test_identity_keeps_every_number(name: str, batch: int) -> None:
    """Subnormals of float16 too, which are none in float32. Those of bfloat16 are, and flushed as they are there."""
    dtype = HALVES[name]
    x = EVERY[EVERY != 0x8000].view(dtype)
    x = np.append(x, np.zeros(-x.size % batch, dtype)).reshape(-1, batch)
    s, ones = identity(x.shape[0]), np.ones(x.shape[0], np.float32)
    plan, y, dx = kernels.plan(s.crow, s.col, s.columns), np.empty_like(x), np.empty_like(x)
    kernels.spmm(plan, ones, x, y)
    with np.errstate(invalid="ignore"):
        kernels.backward(plan, s.col, ones, x, x, dx, np.empty_like(ones))
    expected = widened(x)
    if dtype == BFLOAT16 and X86:
        expected = np.where(np.abs(expected) < 2.0**-126, 0, expected)
    np.testing.assert_array_equal(widened(y), expected)
    np.testing.assert_array_equal(widened(dx), expected)
