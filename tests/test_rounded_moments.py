"""Adam with moments in bfloat16: bits of the kernel, no bias, states, and changes of edges."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from sparsetrain_kernels import rows as kernels
from sparsetrain_kernels.half_precision import widened
from sparsetrain_kernels.rows import reference
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.backends.torch import rows as by_torch

NONE = np.empty(0, np.int32)


def moments(rng: Any, size: int) -> Any:
    return (np.abs(rng.standard_normal(size).astype(np.float32)).view(np.uint32) >> 16).astype(np.uint16)


@settings(max_examples=30, deadline=None)
@given(
    some.integers(0, 2**32 - 1), some.sampled_from([0, 1, 5, 40]), some.booleans(), some.booleans(), some.integers(1, 50)
)  # fmt: skip
def test_the_kernel_and_its_twins_round_the_same_way(
    seed: int, size: int, decoupled: bool, counted: bool, step: int
) -> None:
    rng = np.random.default_rng(seed)
    g, w = rng.standard_normal((2, size)).astype(np.float32)
    m, v = moments(rng, size), moments(rng, size)
    counts = rng.integers(0, 9, size).astype(np.int32) if counted else NONE
    numbers: dict[str, Any] = {
        "step": step, "key": seed, "lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.1,
        "decoupled": decoupled, "scale": 0.5,
    }  # fmt: skip
    results = []
    for form in (kernels, reference):
        arrays = [each.copy() for each in (w, m, v, counts)]
        form.adam_rounded(g, *arrays, **numbers)
        results.append(arrays)
    tensors = [torch.from_numpy(each.copy()) for each in (w, m, v)]
    as_bfloat16 = [bits.view(torch.bfloat16) for bits in tensors[1:]]
    of_steps = torch.from_numpy(counts.copy()) if counted else None
    by_torch.adam_rounded(torch.from_numpy(g), tensors[0], *as_bfloat16, of_steps, **numbers)
    results.append([*(each.numpy() for each in tensors), counts if of_steps is None else of_steps.numpy()])
    for other in results[1:]:
        np.testing.assert_allclose(other[0], results[0][0], rtol=3e-6, atol=1e-6)
        for one, twin in zip(results[0][1:3], other[1:3], strict=True):  # a last bit of float32 may round the other way
            np.testing.assert_allclose(widened(twin), widened(one), rtol=2**-7, atol=0)
            assert (one != twin).mean() < 0.1 if size == 40 else True
        np.testing.assert_array_equal(other[3], results[0][3])


def test_rounding_is_right_on_average_and_to_a_neighbour() -> None:
    number = torch.tensor([1.0 + 3 / 1024, -3.3e-5, 2.0, 0.0])  # 2 and 0 are numbers of bfloat16
    place = torch.arange(200_000)
    for column in number:
        rounded = by_torch.rounded_at_random(column.repeat(place.numel()), by_torch.random_bits(place, 12345)).float()
        below, above = rounded.min(), rounded.max()
        assert below <= column <= above
        assert rounded.unique().numel() <= 2
        gap = float(above - below)
        deviation = gap / 2 / 200_000**0.5
        assert abs(float(rounded.double().mean() - column.double())) <= 5 * deviation


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays(special: float) -> None:
    g = np.full(300, special, np.float32)
    w, m, v = np.zeros(300, np.float32), np.zeros(300, np.uint16), np.zeros(300, np.uint16)
    kernels.adam_rounded(
        g, w, m, v, NONE, step=1, key=3, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
    )
    np.testing.assert_array_equal(widened(m), np.full(300, special, np.float32))
    np.testing.assert_array_equal(widened(v), np.full(300, abs(special), np.float32))
    assert np.isnan(w).all()


def test_threads_change_no_bit() -> None:
    rng = np.random.default_rng(0)
    g, w = rng.standard_normal((2, 100_000)).astype(np.float32)
    results = []
    for threads in (1, 2):
        arrays = [each.copy() for each in (w, moments(np.random.default_rng(1), w.size), moments(rng, w.size) * 0)]
        kernels.adam_rounded(g, *arrays, NONE, step=2, key=9, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
                             decoupled=True, threads=threads)  # fmt: skip
        results.append(arrays)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_second_moment_arrives_where_rounding_to_the_nearest_stands_still() -> None:
    """Gradients of 1 whose second moment goes from 2 to 1 by a thousandth at a time."""
    p = nn.Parameter(torch.zeros(4000))
    optimizer = st.optim.Adam([p], lr=1e-3, moments="bfloat16")
    p.grad = torch.ones_like(p)
    optimizer.step()
    state = optimizer.state[p]
    state["exp_avg_sq"].fill_(2.0)
    for _ in range(1000):
        optimizer.step()
    exact = 1 + 0.999**1000
    assert abs(state["exp_avg_sq"].double().mean() - exact) < 5e-3
    nearest = torch.tensor(2.0).bfloat16()
    for _ in range(1000):
        nearest = (0.999 * nearest.float() + 0.001).bfloat16()
    assert nearest == 2


@pytest.mark.parametrize("kind", [st.optim.Adam, st.optim.AdamW])
def test_training_follows_that_with_float32(kind: Any) -> None:
    torch.manual_seed(0)
    data, truth = torch.randn(200, 30), torch.randn(30, 10)
    losses = []
    for kept in (None, "bfloat16"):
        layer = st.nn.SparseLinear(30, 10, density=0.5, generator=torch.Generator().manual_seed(0))
        optimizer = kind(layer.parameters(), lr=0.01, moments=kept)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (layer(data) - data @ truth).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def trained(optimizer: st.optim.Adam, p: Tensor, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def test_a_state_that_is_loaded_goes_on_bit_for_bit(tmp_path: Any) -> None:
    layer = st.nn.SparseLinear(20, 30, density=0.3)
    optimizer = st.optim.AdamW(layer.parameters(), moments="bfloat16")
    trained(optimizer, layer.values, 3, seed=0)
    st.io.save(tmp_path / "a.safetensors", layer, optimizer)
    trained(optimizer, layer.values, 3, seed=1)
    other = st.nn.SparseLinear(20, 30, topology=layer.topology)
    again = st.optim.AdamW(other.parameters())
    trained(again, other.values, 1, seed=2)
    st.io.load(tmp_path / "a.safetensors", other, again)
    state = again.state[other.values]
    assert state["exp_avg"].dtype is state["exp_avg_sq"].dtype is torch.bfloat16
    trained(again, other.values, 3, seed=1)
    assert torch.equal(other.values, layer.values)
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(state[name], optimizer.state[layer.values][name])


def test_state_of_float32_goes_on_in_16_bits() -> None:
    p = nn.Parameter(torch.randn(50))
    before = st.optim.Adam([p])
    trained(before, p, 3, seed=0)
    optimizer = st.optim.Adam([p], moments="bfloat16")
    state = before.state_dict()
    state["param_groups"][0]["moments"] = "bfloat16"
    optimizer.load_state_dict(state)
    exact = before.state[p]["exp_avg"].to(torch.bfloat16)
    assert torch.equal(optimizer.state[p]["exp_avg"], exact)
    optimizer.param_groups[0]["moments"] = None
    optimizer.step()  # torch's own, which would not take 16 bits
    assert optimizer.state[p]["exp_avg"].dtype is torch.float32


def test_parameters_of_one_number_and_of_none_are_saved_and_go_on() -> None:
    """torch steps them, with moments in float32."""
    parameters = [nn.Parameter(torch.ones(shape)) for shape in ((), (0,), (0, 3), (2, 0), (2,))]
    optimizer = st.optim.Adam(parameters, moments="bfloat16")
    for again in (optimizer, st.optim.Adam(parameters)):
        again.load_state_dict(optimizer.state_dict())
        for p in parameters:
            p.grad = torch.ones_like(p)
        again.step()
        assert [again.state[p]["exp_avg"].dtype for p in parameters] == [torch.float32] * 4 + [torch.bfloat16]


def test_rows_that_a_table_has_counted_count_for_each_of_their_numbers() -> None:
    """The counts of 400 numbers were read and written where there were those of 50 rows."""
    table = nn.Embedding(50, 8, sparse=True)
    optimizer = st.optim.Adam(table.parameters())
    table(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    twin = nn.Parameter(table.weight.detach().clone())
    counted = st.optim.Adam([twin], moments="bfloat16")
    state = {name: value.clone() for name, value in optimizer.state[table.weight].items()}
    counted.state[twin] = {**state, "row_steps": state["row_steps"].repeat_interleave(8)}
    optimizer.param_groups[0]["moments"] = "bfloat16"
    for _ in range(2):
        table.weight.grad = torch.randn(50, 8)
        twin.grad = table.weight.grad.clone()
        optimizer.step()
        counted.step()
    assert torch.equal(twin, table.weight)
    assert optimizer.state[table.weight]["row_steps"].tolist() == [2, 3, 3] + [2] * 47
    optimizer.param_groups[0]["moments"] = None  # and back to rows and float32
    table.weight.grad = None
    table(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    assert optimizer.state[table.weight]["exp_avg"].dtype is torch.float32
    assert optimizer.state[table.weight]["row_steps"].tolist() == [2, 4, 4] + [2] * 47


def test_edges_that_change_carry_their_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = st.nn.SparseLinear(6, 4, topology=st.Topology.from_mask(torch.eye(4, 6)))
    optimizer = st.optim.Adam(layer.parameters(), moments="bfloat16")
    trained(optimizer, layer.values, 2, seed=0)
    before = {name: optimizer.state[layer.values][name].clone() for name in ("exp_avg", "exp_avg_sq")}
    st.optim.carry(optimizer, {layer: st.Edit(layer.topology, [0, 2, 3], ([1], [5]))})
    state = optimizer.state[layer.values]
    for name, old in before.items():
        assert state[name].dtype is torch.bfloat16
        assert torch.equal(state[name], torch.cat([old[:1], old.new_zeros(1), old[2:]]))
    assert state["row_steps"].tolist() == [2, 0, 2, 2]
    values = layer.values.detach().clone()
    layer.values.grad = torch.full((4,), 0.5)
    optimizer.step()
    newborn = values[1] - layer.values[1].detach()
    assert newborn == pytest.approx(1e-3, rel=1e-3), "the first move of an edge is lr"
    assert state["row_steps"].tolist() == [3, 1, 3, 3]


def test_bytes_of_the_state() -> None:
    p = nn.Parameter(torch.randn(1000))
    optimizer = st.optim.Adam([p], moments="bfloat16")
    trained(optimizer, p, 1, seed=0)
    assert sum(t.nbytes for t in optimizer.state[p].values() if t.ndim) == 4 * 1000


def test_what_is_refused_changes_nothing() -> None:
    p = nn.Parameter(torch.randn(5))
    for options, message in (
        ({"moments": "float16"}, "expected moments to be None or 'bfloat16', got 'float16'"),
        ({"moments": "bfloat16", "amsgrad": True}, "does not go with amsgrad=True"),
        ({"moments": "bfloat16", "l1": 0.1}, "does not go with l1"),
        ({"moments": "bfloat16", "unused": "dense"}, 'does not go with unused="dense"'),
    ):
        with pytest.raises(ValueError, match=message):
            st.optim.Adam([p], **options)
    table, wide = nn.Embedding(9, 2, sparse=True), nn.Parameter(torch.ones(3, dtype=torch.float64))
    turned = nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))
    for parameter, loss, message in (
        (table.weight, lambda: table(torch.tensor([1])).sum(), "expected dense gradients"),
        (wide, lambda: wide.sum(), "expected float32 parameters"),
        (turned, lambda: turned.sum(), "expected contiguous parameters"),
    ):
        optimizer = st.optim.Adam([p, parameter], moments="bfloat16")
        p.grad, before = torch.ones(5), p.detach().clone()
        loss().backward()
        with pytest.raises(TypeError, match=message):
            optimizer.step()
        assert torch.equal(p, before)
        assert not optimizer.state


def test_a_layer_steps_in_the_backward_pass_and_keeps_no_gradient() -> None:
    """The pattern of the guide gives the numbers of a step after it."""

    def model() -> nn.Sequential:
        generator = torch.Generator().manual_seed(0)
        layers = [st.nn.SparseLinear(20, 20, density=0.3, generator=generator) for _ in range(3)]
        return nn.Sequential(*layers)

    apart, together = model(), model()
    optimizers = {p: st.optim.Adam([p], moments=None) for p in apart.parameters()}
    alive, most = set(), []

    def stepped(p: Tensor) -> None:
        alive.update(each for each in optimizers if each.grad is not None)
        most.append(len(alive))
        optimizers[p].step()  # type: ignore[index]
        optimizers[p].zero_grad()  # type: ignore[index]
        alive.clear()

    for p in apart.parameters():
        p.register_post_accumulate_grad_hook(stepped)
    usual = st.optim.Adam(together.parameters())
    for k in range(3):
        x = torch.randn(8, 20, generator=torch.Generator().manual_seed(k))
        apart(x).square().mean().backward()
        usual.zero_grad()
        together(x).square().mean().backward()
        usual.step()
    assert max(most) == 1
    assert all(p.grad is None for p in apart.parameters())
    for one, other in zip(apart.parameters(), together.parameters(), strict=True):
        assert torch.equal(one, other)
