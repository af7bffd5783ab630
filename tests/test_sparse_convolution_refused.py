"""What convolutions refuse: it says where, what was expected, what came and what to do."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import sparsetrain as st
from sparsetrain.nn import SparseConv1d, SparseConv2d, SparseConv3d


def layer(**options: Any) -> SparseConv2d:
    arguments: dict[str, Any] = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "density": 0.5}
    return SparseConv2d(**arguments | options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groups": 4}, ValueError, "SparseConv2d: expected out_channels that groups divide, got 6 channels and 4 groups."),
        ({"groups": 3}, ValueError, "expected in_channels that groups divide, got 4 channels and 3 groups."),
        ({"groups": 0}, ValueError, "expected groups >= 1, got 0."),
        ({"in_channels": 0}, ValueError, "expected in_channels >= 1, got 0."),
        ({"out_channels": -1}, ValueError, "expected out_channels >= 0, got -1."),
        ({"in_channels": 4.0}, TypeError, "expected in_channels to be an integer, got 4.0."),
        ({"kernel_size": 0}, ValueError, "expected kernel_size >= 1, got 0."),
        ({"kernel_size": (3, 3, 3)}, ValueError, "expected kernel_size to be a number or 2 numbers, got (3, 3, 3)."),
        ({"kernel_size": "3"}, TypeError, "expected kernel_size to be an integer, got '3'."),
        ({"stride": 0}, ValueError, "expected stride >= 1, got 0."),
        ({"stride": (1, 0)}, ValueError, "expected stride >= 1, got (1, 0)."),
        ({"dilation": 0}, ValueError, "expected dilation >= 1, got 0."),
        ({"padding": -1}, ValueError, "expected padding >= 0, got -1."),
        ({"padding": 1.5}, TypeError, "expected padding to be an integer, got 1.5."),
        ({"padding": "full"}, ValueError, "expected padding to be numbers, 'same' or 'valid', got 'full'."),
        ({"padding": "same", "stride": 2}, ValueError, "expected a stride of 1 with padding='same', which keeps the size"),
        ({"padding_mode": "wrap"}, ValueError, "expected padding_mode to be one of ['zeros', 'reflect', 'replicate', 'circular'], got 'wrap'."),
        ({"density": None}, ValueError, "expected exactly one of density and topology, got neither."),
        ({"topology": st.patterns.uniform((6, 36), 0.5)}, ValueError, "expected exactly one of density and topology, got both."),
        ({"density": None, "topology": torch.ones(6, 36)}, TypeError, "expected a Topology, got Tensor. Make one with Topology.from_mask"),
        ({"density": None, "topology": st.patterns.uniform((6, 4), 0.5)}, ValueError,
         "expected edges of shape (out, in / groups * kernel) = (6, 36), for a weight (6, 4, 3, 3), got (6, 4)."),
        ({"density": 2.0}, ValueError, "expected density from 0 to 1, got 2.0."),
        ({"dtype": torch.int32}, TypeError, "expected dtype float32, float64, float16 or bfloat16, got torch.int32."),
    ],
)  # fmt: skip
def test_layers_that_make_no_sense(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        layer(**options)


@pytest.mark.parametrize(
    ("options", "x", "error", "message"),
    [
        ({}, torch.ones(2, 4, 8), ValueError,
         "SparseConv2d: expected 4 input channels, got 2 (x has shape (2, 4, 8))."),
        ({}, torch.ones(8, 8), ValueError, "expected x of shape (batch, channels, height, width) or (channels, height, width), got (8, 8), 2 dimensions."),
        ({}, torch.ones(2, 3, 8, 8), ValueError, "expected 4 input channels, got 3 (x has shape (2, 3, 8, 8))."),
        ({"padding": 2}, torch.ones(2, 4, 0, 8), ValueError, "expected at least one position in each dimension, got x of shape (2, 4, 0, 8)"),
        ({}, torch.ones(2, 4, 2, 8), ValueError, "expected an input that is as large as the kernel, which spans (3, 3), got (2, 8) with its padding"),
        ({"dilation": 4, "padding": 1}, torch.ones(2, 4, 6, 7), ValueError, "which spans (9, 9), got (8, 9) with its padding"),
        ({}, torch.ones(2, 4, 0, 8), ValueError, "got (0, 8) with its padding"),
        ({"padding": 3, "padding_mode": "reflect"}, torch.ones(2, 4, 3, 8), ValueError,
         "expected an input of at least 4 for padding 3 in mode 'reflect', got size (3, 8)."),
        ({"padding": 4, "padding_mode": "circular"}, torch.ones(2, 4, 3, 8), ValueError,
         "expected an input of at least 4 for padding 4 in mode 'circular', got size (3, 8)."),
        ({"padding": 1, "padding_mode": "circular"}, torch.ones(2, 3, 8, 8), ValueError, "expected 4 input channels, got 3"),
        ({}, torch.ones(2, 4, 8, 8, dtype=torch.float64), TypeError, "expected one dtype, got x torch.float64, values torch.float32"),
        ({}, torch.ones(2, 4, 8, 8, dtype=torch.int64), TypeError, "expected x in float32, float64, float16 or bfloat16, got torch.int64."),
        ({}, torch.ones(2, 4, 8, 8).to_sparse(), TypeError, "expected x to be a dense tensor, got torch.sparse_coo. Call .to_dense() on it."),
        ({}, [[1.0]], TypeError, "expected x to be a torch.Tensor, got list."),
        ({}, torch.ones(2, 4, 8, 8, device="meta"), TypeError, "expected x on cpu, where the topology is, got meta."),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit(options: Any, x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        layer(**options)(x)


def test_the_message_names_the_layer() -> None:
    for kind, x in ((SparseConv1d, torch.ones(2, 3, 9)), (SparseConv3d, torch.ones(2, 3, 9, 9, 9))):
        with pytest.raises(ValueError, match=rf"^{kind.__name__}: expected 4 input channels, got 3"):
            kind(4, 6, 3, density=0.5)(x)


@pytest.mark.parametrize(
    ("dense", "mask", "error", "message"),
    [
        (nn.Conv1d(4, 6, 3), None, TypeError, "SparseConv2d.from_dense: expected an nn.Conv2d, got Conv1d."),
        (nn.ConvTranspose2d(4, 6, 3), None, TypeError, "expected an nn.Conv2d, got ConvTranspose2d."),
        (nn.Conv2d(4, 6, 3), torch.ones(6, 4), ValueError, "for a weight (6, 4, 3, 3), got (6, 4)."),
        (nn.Conv2d(4, 6, 3), st.patterns.uniform((4, 54), 0.1), ValueError, "for a weight (6, 4, 3, 3), got (4, 54)."),
        (nn.Conv2d(4, 6, 3, device="meta"), None, ValueError, "expected a mask, as weights on the meta device have no zeros."),
    ],
)  # fmt: skip
def test_dense_layers_that_do_not_fit(dense: Any, mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        SparseConv2d.from_dense(dense, mask)


def model(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: model(nn.LazyConv2d(4, 3)), {"density": 0.1}, ValueError, "'1' has none yet. Initialize it before. Or: Leave it dense with skip=['1']."),
        (lambda: model(nn.Conv2d(4, 4, 3, device="meta")), {"density": 0.1}, ValueError, "'1' has none yet."),
        (lambda: model(parametrizations.weight_norm(nn.Conv2d(4, 4, 3))), {"density": 0.1}, ValueError,
         "expected layers of weight and bias alone, '1' has parametrizations. Leave it dense with skip=['1']."),
        (lambda: model(nn.Conv2d(4, 4, 3, dtype=torch.cfloat)), {"density": 0.1}, TypeError, "'1' has torch.complex64."),
        (model, {"masks": {"0": torch.ones(4, 9)}}, ValueError,
         "expected the mask of '0' in shape (4, 3, 3, 3), or as a matrix (4, 27), got (4, 9)."),
        (model, {"masks": {"0": torch.full((4, 3, 3, 3), 0.5)}}, ValueError, "mask of '0': "),
        (lambda: model(nn.ReLU()), {"masks": {"1": torch.ones(4, 3, 3, 3)}}, ValueError,
         "expected names of linear or convolutional layers in masks, got '1', a ReLU. There are '0'."),
        (lambda: model(nn.ConvTranspose2d(4, 4, 3)), {"density": {nn.ConvTranspose2d: 0.1}}, ValueError,
         "expected rules for linear or convolutional layers that are not in skip, 'ConvTranspose2d' matches only '1 (ConvTranspose2d)'."),
        (lambda: tied(), {"density": 0.1}, ValueError, "0.weight and 1.weight are one tensor"),
        (lambda: named_as_ours(), {"density": 0.1}, ValueError, "expected no attribute geometry on '0', which SparseConv2d needs for itself."),
    ],
)  # fmt: skip
def test_models_that_do_not_become_sparse(
    make: Callable[[], nn.Module], options: Any, error: type[Exception], message: str
) -> None:
    whole = make()
    before = list(whole.modules())
    with pytest.raises(error, match=re.escape(message)):
        st.convert.sparsify(whole, **options)
    assert all(new is old for new, old in zip(whole.modules(), before, strict=True))


def tied() -> nn.Module:
    whole = model(nn.Conv2d(3, 4, 3))
    whole[1].weight = whole[0].weight  # type: ignore[index]
    return whole


def named_as_ours() -> nn.Module:
    whole = model()
    whole[0].geometry = "mine"  # type: ignore[index]
    return whole


def test_rules_of_links_are_for_linear_layers() -> None:
    conv = layer()
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match=r"CHT: expected linear layers, '' is a SparseConv2d.* Leave it out with layers="
    ):
        st.evolve.Evolver(conv, optimizer, st.evolve.CHT(), st.evolve.Constant(interval=1, prune_fraction=0.1))


def test_the_choice_of_a_product_is_not_that_of_a_convolution() -> None:
    with pytest.raises(TypeError, match=r"choice: expected a layer of products, got SparseConv2d"):
        st.ops.choice(layer(), batch=8)


@pytest.mark.parametrize("wrong", ["columns", "values", "x", "groups", "kernel", "dtype"])
def test_operators_check_what_anybody_gives_them(wrong: str) -> None:
    conv, x = layer(), torch.ones(2, 4, 8, 8)
    values: Tensor = conv.values.detach()
    t = conv.topology
    columns, groups, kernel = t.shape[1], 1, [3, 3]
    if wrong == "columns":
        columns = 45
    elif wrong == "values":
        values = values[1:]
    elif wrong == "x":
        x = x[:, 1:]
    elif wrong == "groups":
        groups = 4
    elif wrong == "kernel":
        kernel = [9, 9]
    else:
        values = values.half()
    with pytest.raises((ValueError, TypeError, RuntimeError), match=r"sparsetrain::convolution|Topology"):
        torch.ops.sparsetrain.convolution(
            t.crow, t.col, values, x, None, None, columns, kernel, [1, 1], [0] * 4, [1, 1], groups, "automatic", None,
            False,
        )  # fmt: skip
