"""st.summary: each weight once, with its edges and bytes, and why it is dense."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, prune

import sparsetrain as st
from sparsetrain.convert import Summary, SummaryRow
from sparsetrain.nn import LookupTable, MaskedLinear, SparseDeltaLinear, SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def by_name(summary: Summary) -> dict[str, SummaryRow]:
    return {row.name: row for row in summary.rows}


def only(module: nn.Module) -> SummaryRow:
    [row] = st.summary(module).rows
    return row


# ---- what a row says -------------------------------------------------------------------------------------------------


def test_a_sparse_layer() -> None:
    layer = SparseLinear(20, 30, density=0.1)
    assert only(layer) == SummaryRow("", "SparseLinear", (30, 20), 60, 0.1, 240, 4 * (31 + 60), True)
    assert only(layer.double()).value_bytes == 480
    layer(torch.ones(4, 20, dtype=torch.float64)).sum().backward()  # makes the transpose plan
    assert only(layer).index_bytes == layer.topology.nbytes > 4 * (31 + 60)
    assert only(layer).bytes == 480 + layer.topology.nbytes


def test_a_masked_layer_has_all_of_its_weight_and_of_its_mask() -> None:
    row = only(MaskedLinear(20, 30, density=0.1))
    assert (row.edges, row.density, row.value_bytes, row.index_bytes) == (60, 0.1, 2400, 2400)
    assert (row.sparse, row.note) == (True, "a dense weight under a mask")


def test_a_delta_layer_and_the_weight_beside_it() -> None:
    model = nn.Sequential(SparseDeltaLinear(nn.Linear(20, 30), st.patterns.uniform((30, 20), 0.1)))
    rows = by_name(st.summary(model))
    assert (rows["0"].kind, rows["0"].edges, rows["0"].value_bytes) == ("SparseDeltaLinear", 60, 240)
    assert (rows["0.linear"].value_bytes, rows["0.linear"].sparse) == (2400, False)
    assert rows["0.linear"].note == "frozen, beside the edges of SparseDeltaLinear"
    summary = st.summary(model)  # both are held, and both count
    assert (summary.edges, summary.density, summary.bytes) == (660, 660 / 1200, 240 + model[0].topology.nbytes + 2520)


def test_a_hierarchy_has_a_row_for_each_level() -> None:
    model = st.convert.from_hierarchy(
        [("TP53", "apoptosis"), ("MYC", "cycle"), ("apoptosis", "cell"), ("cycle", "cell")]
    )
    rows = st.summary(model).rows
    assert [(row.name, row.edges) for row in rows] == [("levels.0", 2), ("levels.1", 2)]


@pytest.mark.parametrize(
    ("module", "shapes", "note"),
    [
        (LookupTable(50, 4), [(50, 4)], "table: each step reads and trains the rows it uses"),
        (nn.Embedding(50, 4), [(50, 4)], "table: see nn.LookupTable"),
        (nn.Conv2d(3, 4, 5), [(4, 3, 5, 5)], "not converted"),
        (type("Mine", (nn.Conv2d,), {})(3, 4, 5), [(4, 3, 5, 5)], "a subclass of nn.Conv2d"),
        (nn.ConvTranspose2d(3, 4, 5), [(3, 4, 5, 5)], "a transposed convolution, without a sparse form"),
        (nn.GRUCell(3, 4), [(12, 3), (12, 4)], "torch's recurrent kernels read it themselves"),
        (nn.Bilinear(3, 4, 5), [(5, 3, 4)], "there is no sparse form of Bilinear"),
        (nn.Linear(3, 4), [(4, 3)], "not converted"),
        (nn.Linear(3, 4, dtype=torch.cfloat), [(4, 3)], "weights in torch.complex64"),
        (type("Mine", (nn.Linear,), {})(3, 4), [(4, 3)], "a subclass of nn.Linear"),
        (nn.LazyLinear(4), [()], "lazy: it has no weight yet"),
        (nn.LazyConv1d(4, 3), [()], "lazy: it has no weight yet"),
        (parametrizations.weight_norm(nn.Linear(3, 4)), [(4, 3)], "parametrized"),
        (parametrizations.orthogonal(nn.Linear(4, 4)), [(4, 4)], "parametrized"),
        (prune.l1_unstructured(nn.Linear(3, 4), "weight", 0.5), [(4, 3)], "pruned by torch.nn.utils.prune"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_why_a_weight_is_dense(module: nn.Module, shapes: list[Any], note: str) -> None:
    rows = st.summary(module).rows
    assert [(row.shape, row.note, row.sparse) for row in rows] == [(shape, note, False) for shape in shapes]


def test_attention_keeps_its_projections() -> None:
    rows = by_name(st.summary(nn.TransformerEncoderLayer(16, 2, 32)))
    assert rows["self_attn.in_proj_weight"].note == "not converted"
    assert rows["self_attn.in_proj_weight"].shape == (48, 16)
    assert rows["self_attn.out_proj"].note == "not converted"
    assert rows["self_attn.out_proj"].kind == "NonDynamicallyQuantizableLinear"
    assert rows["linear1"].note == "not converted"
    apart = by_name(st.summary(nn.MultiheadAttention(16, 2, kdim=8, vdim=8)))
    assert set(apart) == {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj"}


def test_an_encoder_before_and_after() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2, enable_nested_tensor=False)
    would_be = st.convert.sparsify(model, {"*.linear?": 0.1}, dry_run=True)
    rows = st.summary(st.convert.sparsify(model, {"*.linear?": 0.1})).rows
    assert [row.sparse for row in rows] == [False, False, True, True] * 2
    assert [row.edges for row in rows] == [row.edges for row in would_be.rows]


def test_layers_without_edges_say_so() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    would_be = st.convert.sparsify(model, {"0": 1e-9, "1": 0.1}, dry_run=True)
    rows = st.summary(st.convert.sparsify(model, {"0": 1e-9, "1": 0.1})).rows
    expected = ["no edges: it gives its bias alone", ""]
    assert [row.note for row in would_be.rows] == [row.note for row in rows] == expected


# ---- what is shared --------------------------------------------------------------------------------------------------


def test_tied_numbers_count_once() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(9, 4), "head": nn.Linear(4, 9, bias=False)})
    model["head"].weight = model["table"].weight
    summary = st.summary(model)
    head = by_name(summary)["head"]
    assert (head.shared, head.note, head.value_bytes) == ("table", "tied to table.weight", 0)
    assert (summary.edges, summary.bytes, summary.density) == (36, 144, 1.0)
    tables = nn.ModuleDict({"a": nn.Embedding(9, 4), "b": nn.Embedding(9, 4)})
    tables["b"].weight = tables["a"].weight
    assert by_name(st.summary(tables))["b"].note == "numbers of a; table: see nn.LookupTable"


@pytest.mark.parametrize("constrained", [False, True])
def test_a_transposed_layer_has_the_values_of_another(constrained: bool) -> None:
    encoder = SparseLinear(20, 5, density=0.3)
    model = nn.ModuleDict({"encoder": encoder, "decoder": encoder.transposed()})
    if constrained:
        st.constrain.bounded(encoder, -1.0, 1.0)
    summary = st.summary(model)
    decoder = by_name(summary)["decoder"]
    assert (decoder.shape, decoder.edges, decoder.bytes) == ((20, 5), 30, 0)
    assert (decoder.shared, decoder.note) == ("encoder", "numbers of encoder")
    assert (summary.edges, summary.density) == (30, 0.3)
    assert by_name(summary)["encoder"].value_bytes >= 120


def test_a_topology_of_two_layers_counts_once() -> None:
    t = st.patterns.uniform((5, 20), 0.3)
    first, second = st.summary(nn.Sequential(SparseLinear(20, 5, topology=t), SparseLinear(20, 5, topology=t))).rows
    assert (first.index_bytes, second.index_bytes) == (t.nbytes, 0)
    assert first.value_bytes == second.value_bytes == 120
    assert second.shared == ""


def test_a_layer_in_two_places_has_one_row() -> None:
    linear = nn.Linear(4, 4)
    assert len(st.summary(nn.Sequential(linear, nn.ReLU(), linear)).rows) == 1


# ---- totals ----------------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_all_tensors() -> None:
    model = nn.ModuleDict(
        {
            "sparse": SparseLinear(20, 30, density=0.1),
            "masked": MaskedLinear(20, 30, density=0.1),
            "norm": nn.BatchNorm1d(30),
            "lstm": nn.LSTM(4, 5),
            "normed": parametrizations.weight_norm(nn.Linear(3, 4)),
            "spectral": parametrizations.spectral_norm(nn.Linear(3, 4)),
            "pruned": prune.l1_unstructured(nn.Conv1d(3, 4, 5), "weight", 0.5),
        }
    )
    tensors = [*model.parameters(), *model.buffers()]
    expected = sum(tensor.nbytes for tensor in tensors) + model["sparse"].topology.nbytes
    assert st.summary(model).bytes == expected
    rows = by_name(st.summary(model))
    assert rows["pruned"].edges == 30
    assert rows["spectral"].value_bytes == 4 * (12 + 4 + 3)  # the weight, and two vectors beside it


def test_a_summary_changes_nothing() -> None:
    model = nn.Sequential(SparseLinear(20, 30, density=0.1), nn.Linear(30, 4)).eval()
    before = copy.deepcopy(model.state_dict())
    held = model[0].topology.nbytes
    repr(st.summary(model))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert model[0].topology.nbytes == held


def test_models_without_weights() -> None:
    summary = st.summary(nn.ReLU())
    assert (summary.rows, summary.edges, summary.density, summary.bytes) == ((), 0, 0.0, 0)
    assert "total" in repr(summary)


# ---- models without data ---------------------------------------------------------------------------------------------


def test_models_on_meta() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(20, 30), SparseLinear(30, 4, density=0.5), MaskedLinear(4, 3, density=0.5))
    dense, sparse, masked = st.summary(model).rows
    assert (dense.value_bytes, sparse.edges, sparse.value_bytes) == (2400, 60, 240)
    assert sparse.note == "edges are placeholders until a state is loaded"
    assert masked.note == "a dense weight under a mask that has no data yet"


def test_fake_models() -> None:
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(20, 30), SparseLinear(30, 4, density=0.5))
        assert [row.edges for row in st.summary(model).rows] == [600, 60]


# ---- as text ---------------------------------------------------------------------------------------------------------


def test_it_prints_as_a_table() -> None:
    model = nn.Sequential(SparseLinear(784, 300, density=0.05), nn.ReLU(), nn.Linear(300, 10))
    assert str(st.summary(model)).splitlines() == [
        "name    kind           shape        edges   density    values   indices   note",
        "-" * 106,
        "0       SparseLinear   300 x 784   11,760      0.05   47.0 kB   48.2 kB",
        "2       Linear         10 x 300     3,000         1   12.0 kB       0 B   not converted",
        "-" * 106,
        "total                              14,760   0.06196   59.0 kB   48.2 kB   and 1.24 kB of biases and others",
    ]
    assert str(st.summary(nn.Linear(2, 3))).splitlines()[2].startswith("(the model)")


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"summary: expected a module, got list\."):
        st.summary([nn.Linear(2, 3)])  # type: ignore[arg-type]
