"""Patterns at their limits: bad input, the largest shapes, and memory in proportion to the edges."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sparsetrain import Topology, patterns

NAN = float("nan")
EVERY = {
    "uniform": lambda shape: patterns.uniform(shape, 1e-16),
    "erdos_renyi": lambda shape: patterns.erdos_renyi(shape, 1e-16),
    "fixed_fan_in": lambda shape: patterns.fixed_fan_in(shape, 2),
    "banded": lambda shape: patterns.banded(shape, 1),
    "small_world": lambda shape: patterns.small_world(shape, 2, 0.5),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ((-1, 2), ValueError, r"shape = \(out, in\), two integers, each from 0 .* got \(-1, 2\)"),
        ((2,), ValueError, r"shape = \(out, in\), two integers, got \(2,\)"),
        ((2, 2.0), TypeError, r"shape = \(out, in\), two integers, got \(2, 2.0\)"),
        ((2**32, 2**31), ValueError, r"fewer than 2\*\*63 positions .*, got 9223372036854775808 .*\(4294967296, 21474"),
    ],
)
def test_bad_shapes(name, shape, error, message):
    with pytest.raises(error, match=rf"^patterns\.{name}: expected {message}"):
        EVERY[name](shape)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(1, 2**63 - 1), (7, 2**63 // 7)])
def test_the_largest_shapes(name, shape):
    t = EVERY[name](shape)
    assert t.shape == shape
    assert t.nnz > 0
    assert Topology(t.crow, t.col, shape).digest == t.digest  # canonical


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: patterns.uniform((3, 4), NAN), ValueError, "patterns.uniform: expected density from 0 to 1, got nan"),
        (
            lambda: patterns.uniform((3, 4), 1.1),
            ValueError,
            "density from 0 to 1, got 1.1.*sparsity s pass density = 1",
        ),
        (lambda: patterns.uniform((3, 4), -0.1), ValueError, "density from 0 to 1, got -0.1"),
        (lambda: patterns.uniform((3, 4), None), TypeError, "density to be a number from 0 to 1, got None"),
        (lambda: patterns.uniform((3, 4), torch.ones(2)), TypeError, "density to be a number from 0 to 1, got tensor"),
        (
            lambda: patterns.uniform((3, 4), 0.5, 42),
            TypeError,
            "generator to be a torch.Generator or None, got 42.*seed",
        ),
        (
            lambda: patterns.uniform((3, 4), 0.5, np.random.default_rng()),
            TypeError,
            "generator to be a torch.Generator",
        ),
        (lambda: patterns.erdos_renyi((3, 4), NAN), ValueError, "patterns.erdos_renyi: expected density from 0 to 1"),
        (lambda: patterns.erdos_renyi((3, 4)), TypeError, "exactly one of density and epsilon, got neither"),
        (lambda: patterns.erdos_renyi((3, 4), 0.1, epsilon=1), TypeError, "one of density and epsilon, got both"),
        (lambda: patterns.erdos_renyi((3, 4), epsilon=NAN), ValueError, "epsilon to be a finite number >= 0, got nan"),
        (lambda: patterns.erdos_renyi((3, 4), epsilon=-1), ValueError, "epsilon to be a finite number >= 0, got -1"),
        (lambda: patterns.erdos_renyi((3, 4), epsilon=math.inf), ValueError, "epsilon to be a finite number.*got inf"),
        (lambda: patterns.erdos_renyi((3, 4), epsilon="x"), TypeError, "epsilon to be a number >= 0, got 'x'"),
        (lambda: patterns.erdos_renyi((3, 4), 0.5, generator=1), TypeError, "generator to be a torch.Generator"),
        (lambda: patterns.fixed_fan_in((3, 4), 5), ValueError, r"patterns.fixed_fan_in: expected fan_in <= 4.*got 5"),
        (lambda: patterns.fixed_fan_in((3, 0), 1), ValueError, r"fan_in <= 0, the number of columns, got 1"),
        (lambda: patterns.fixed_fan_in((3, 4), -1), ValueError, r"fan_in >= 0, got -1"),
        (lambda: patterns.fixed_fan_in((3, 4), 2.0), TypeError, r"fan_in to be an integer, got 2.0"),
        (lambda: patterns.fixed_fan_in((3, 4), True), TypeError, r"fan_in to be an integer, got True"),
        (lambda: patterns.fixed_fan_in((3, 4), torch.tensor(2.5)), TypeError, r"fan_in to be an integer, got tensor"),
        (lambda: patterns.fixed_fan_in((3, 4), 2, "0"), TypeError, "generator to be a torch.Generator"),
        (lambda: patterns.banded((3, 4), -1), ValueError, r"patterns.banded: expected bandwidth >= 0, got -1"),
        (lambda: patterns.banded((3, 4), 1.5), TypeError, r"bandwidth to be an integer, got 1.5"),
        (lambda: patterns.small_world((3, 4), 5, 0.1), ValueError, r"patterns.small_world: expected fan_in <= 4"),
        (lambda: patterns.small_world((3, 4), 2, 1.1), ValueError, r"rewire from 0 to 1, got 1.1"),
        (lambda: patterns.small_world((3, 4), 2, NAN), ValueError, r"rewire from 0 to 1, got nan"),
        (lambda: patterns.small_world((3, 4), 2, "x"), TypeError, r"rewire to be a number from 0 to 1, got 'x'"),
        (lambda: patterns.small_world((3, 4), 2, 0.1, 3), TypeError, "generator to be a torch.Generator"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numbers_of_other_libraries():
    assert patterns.uniform((np.int64(3), torch.tensor(4)), np.float32(0.5)).nnz == 6
    assert patterns.fixed_fan_in(torch.Size([3, 4]), np.int32(2)).nnz == 6
    assert patterns.uniform((3, 4), torch.tensor(0.25)).nnz == 3


def test_allocate_is_a_pattern_too():
    assert patterns.allocate([(2, 3)], 0.5) == [0.5]


# ---- memory ------------------------------------------------------------------------------------------------------

MEASURE = """
import sys
from sparsetrain import patterns

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

ROWS_TO_TOPOLOGY = {
    "uniform": lambda rows: patterns.uniform((rows, 10**6), 1e-5),
    "erdos_renyi": lambda rows: patterns.erdos_renyi((rows, 10**6), 1e-5),
    "fixed_fan_in": lambda rows: patterns.fixed_fan_in((rows, 10**6), 10),
    "banded": lambda rows: patterns.banded((rows, 10**6), 5),
    "small_world": lambda rows: patterns.small_world((rows, 10**6), 10, 0.5),
}
makes = [ROWS_TO_TOPOLOGY[name] for name in sys.argv[2:]]
for make in makes:
    make(100)
before = status("VmRSS")
print(sum(make(int(sys.argv[1])).nnz for make in makes), status("VmHWM") - before)
"""


def built(rows, *names):
    """Edges built of these patterns, and the most memory that a fresh process needed for them on top."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MEASURE, str(rows), *names]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in output.split())


@pytest.mark.slow
def test_10_million_edges_take_memory_in_proportion():
    edges, peak = built(10**6, "uniform")  # as booleans a matrix of this shape would take 1000 GB
    assert edges == 10_000_000
    assert peak < 90 * edges  # eleven int64 arrays of this length
    assert peak > 8 * edges  # the instrument works


@pytest.mark.slow
def test_a_million_edges_of_any_pattern_take_memory_in_proportion():
    edges, peak = built(10**5, "erdos_renyi", "fixed_fan_in", "banded", "small_world")
    assert 4_000_000 < edges < 4_200_000
    assert peak < 30 * edges  # one at a time
