"""allocate: densities in proportion to the papers' formulas, and the right total."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from sparsetrain.patterns import allocate

MLP = [(1000, 784), (1000, 1000), (10, 1000)]


def test_uniform_is_the_density_itself():
    assert allocate(MLP, 0.1) == [0.1, 0.1, 0.1]
    assert allocate(MLP, 0.1, method="uniform") == [0.1, 0.1, 0.1]


@pytest.mark.parametrize("method", ["er", "erk"])
def test_edges_in_proportion_to_nodes(method):
    # 400 and 100 nodes share 4250 edges: 8.5 for each node
    assert allocate([(200, 200), (50, 50)], 0.1, method) == pytest.approx([3400 / 40000, 850 / 2500])


@pytest.mark.parametrize("method", ["er", "erk"])
def test_a_layer_that_would_exceed_1_is_dense_and_the_rest_shares_what_is_left(method):
    # 1794, 1784 and 1010 nodes: the last would get 2.4 times its 10000 positions
    rest = 0.1 * (784_000 + 1_000_000 + 10_000) - 10_000
    per_node = rest / (1784 + 2000)
    expected = [per_node * 1784 / 784_000, per_node * 2000 / 1_000_000, 1.0]
    assert allocate(MLP, 0.1, method) == pytest.approx(expected)


def test_a_layer_can_become_dense_only_after_another_has():
    # 29.9 edges a node at first: too many for the 20 nodes of (10, 10), not for the 120 of (60, 60), which hold 30;
    # what (10, 10) can't hold raises it to 30.1
    edges = 29.9 * 2120 + 29.9 * 20
    densities = allocate([(1000, 1000), (60, 60), (10, 10)], edges / 1_003_700, "er")
    assert densities == pytest.approx([(edges - 3600 - 100) / 1_000_000, 1.0, 1.0])


def test_erk_counts_the_kernel_and_er_does_not():
    shapes = [(64, 64, 3, 3), (64, 128, 1, 1)]
    sizes = [36864, 8192]
    erk = [(64 + 64 + 3 + 3) / 36864, (64 + 128 + 1 + 1) / 8192]
    er = [(64 + 64) / 4096, (64 + 128) / 8192]
    for method, weights in (("erk", erk), ("er", er)):
        scale = 0.1 * sum(sizes) / sum(w * n for w, n in zip(weights, sizes, strict=True))
        assert allocate(shapes, 0.1, method) == pytest.approx([scale * w for w in weights])


shapes = some.lists(some.lists(some.integers(0, 50), min_size=2, max_size=4), max_size=6)


@settings(deadline=None, max_examples=200)
@given(shapes, some.floats(0, 1), some.sampled_from(["uniform", "er", "erk"]))
@example([[3, 3], [3, 3]], 1.0, "er")
@example([[3, 3], [2, 7]], 0.0, "erk")
@example([[0, 3], [2, 7]], 0.5, "erk")
@example([], 0.5, "erk")
def test_the_total_is_right_and_no_layer_exceeds_1(shapes, density, method):
    densities = allocate(shapes, density, method)
    sizes = [math.prod(shape) for shape in shapes]
    assert len(densities) == len(shapes)
    assert all(isinstance(d, float) and 0 <= d <= 1 for d in densities)
    total = sum(d * n for d, n in zip(densities, sizes, strict=True))
    assert total == pytest.approx(density * sum(sizes), rel=1e-12, abs=1e-12)
    dims = (lambda shape: shape) if method == "erk" else (lambda shape: shape[:2])
    if method != "uniform":  # proportional among the layers that are not dense, and none of those deserved more
        per_weight = [
            d * math.prod(dims(s)) / sum(dims(s))
            for d, s, n in zip(densities, shapes, sizes, strict=True)
            if n and d < 1 - 1e-12
        ]
        assert per_weight == pytest.approx([max(per_weight, default=0)] * len(per_weight), rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(some.lists(some.tuples(some.integers(1, 99), some.integers(1, 99)), min_size=1), some.floats(0, 1))
def test_er_and_erk_agree_on_matrices(shapes, density):
    assert allocate(shapes, density, "er") == allocate(shapes, density, "erk")


@pytest.mark.parametrize(
    ("shapes", "density", "method", "error", "message"),
    [
        (MLP, 1.5, "erk", ValueError, r"^patterns.allocate: expected density from 0 to 1, got 1.5.*sparsity"),
        (MLP, float("nan"), "erk", ValueError, "density from 0 to 1, got nan"),
        (MLP, "much", "erk", TypeError, "density to be a number from 0 to 1, got 'much'"),
        (MLP, 0.1, "ERK", ValueError, r"method to be one of \['uniform', 'er', 'erk'\], got 'ERK'"),
        ([(3, -1)], 0.1, "erk", ValueError, r"list of layer shapes \(out, in, \.\.\.\), each from 0 .* got \(3, -1\)"),
        ([(3,)], 0.1, "erk", ValueError, r"got \(3,\) among them, which has too few dimensions"),
        ([()], 0.1, "uniform", ValueError, r"too few dimensions"),
        ((784, 1000), 0.1, "erk", TypeError, r"shapes to be a list of layer shapes .*, got 784"),
        (784, 0.1, "erk", TypeError, r"shapes to be a list of layer shapes .*, got 784"),
        ([(3, 2.5)], 0.1, "erk", TypeError, r"layer shapes .*, got \(3, 2.5\)"),
    ],
)
def test_bad_input(shapes, density, method, error, message):
    with pytest.raises(error, match=message):
        allocate(shapes, density, method)
