"""Readers of edges: files, sets, graphs of other libraries; and what is said of files that are not what they should be."""

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from sparsetrain import Topology, io
from sparsetrain.nn import SparseLinear


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes, name: str = "file.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# ---- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_table_of_edges(written: Any, separator: str) -> None:
    text = (
        "weight,note,target,source,constraint\n0.5,x,apoptosis,TP53,positive\n\n-1e-3,,cycle, 007 ,\n2,,NA,nan,fixed\n"
    )
    frame = io.read_csv(written(text.replace(",", separator)))
    assert list(frame.columns) == ["source", "target", "weight", "constraint"]
    assert frame.source.tolist() == ["TP53", "007", "nan"]
    assert frame.target.tolist() == ["apoptosis", "cycle", "NA"]
    assert frame.weight.tolist() == [0.5, -1e-3, 2.0]
    assert frame.constraint[0] == "positive"
    assert pd.isna(frame.constraint[1])
    assert SparseLinear.from_edges(frame.drop(columns="constraint")).topology.nnz == 3


def test_columns_without_a_name_are_not_read(written: Any) -> None:
    assert io.read_csv(written(",source,target,,\n0,a,b,,\n1,c,d,,\n")).values.tolist() == [["a", "b"], ["c", "d"]]


def test_columns_of_other_names(written: Any) -> None:
    path = written("pre,post,syn\na,b,3\n")
    assert io.read_csv(path, source="pre", target="post", weight="syn").values.tolist() == [["a", "b", 3.0]]
    assert list(io.read_csv(path, source="pre", target="post").columns) == ["source", "target"]


def test_tables_may_be_compressed_or_have_a_mark(written: Any) -> None:
    packed = written(gzip.compress(b"source,target\na,b\n"), "edges.csv.gz")
    assert io.read_csv(packed).values.tolist() == [["a", "b"]]
    assert io.read_csv(written("\ufeffsource,target\r\na,b\r\n")).values.tolist() == [["a", "b"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"columns 'source', 'target' in '.*', got \['a', 'b'\]\. Name them with source="),
        (
            "source,target\na,b\nc\n",
            r"a name as the target of every edge, got None in line 3 of '.*'\. The file may be cut off",
        ),
        ("source,target\na,b\n\n ,c\n", r"a name as the source of every edge, got None in line 4"),
        ("source,target,weight\na,b,1\nc,d", r"a number as the weight of every edge, got None in line 3"),
        ("source,target,weight\na,b,1\nc,d,heavy\n", r"a number as the weight of every edge, got 'heavy' in line 3"),
        ("source,target,weight\na,b,inf\n", r"a number as the weight of every edge, got 'inf' in line 2"),
        ("source,target,weight\na,b,1e999\n", r"got '1e999' in line 2"),
        (
            "source,target\na,b\nc,d,e\n",
            r"a table of text with a header, '.*' is none \(expected 2 fields in line 3, as in the header, got 3",
        ),
        ("source,target\na,b,c\nd,e,f\n", r"is none \(expected 2 fields in line 2"),
        ('source,target\n"a,b",c\n"d\ne",f,g\n', r"is none \(expected 2 fields in line 4"),
        ("source,source,target\na,b,c\n", r"columns of distinct names in '.*', got 'source' twice"),
        (" source,source ,target\na,b,c\n", r"columns of distinct names in '.*', got 'source' twice"),
        ("", r"is none \(No columns"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", r"is none \('utf-8' codec"),
    ],
)
def test_tables_that_are_wrong(written: Any, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match="^io.read_csv: expected .*" + message):
        io.read_csv(written(text))


def test_a_column_that_was_asked_for(written: Any) -> None:
    path = written("source,target\na,b\n")
    with pytest.raises(ValueError, match=r"expected columns 'source', 'target', 'size'"):
        io.read_csv(path, weight="size")
    with pytest.raises(ValueError, match=r"expected columns 'source', 'source' in"):
        io.read_csv(path, target="source")
    with pytest.raises(FileNotFoundError, match=r"^io.read_csv: .*there is no file '.*nowhere.csv'"):
        io.read_csv(path.parent / "nowhere.csv")


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zip"])
def test_compressed_files_that_are_damaged(written: Any, suffix: str) -> None:
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": lambda text: b"PK" + text}[suffix]
    text = b"source\td\ttarget\n" + b"".join(b"p%d\td\tq\n" % (k * k) for k in range(500))
    packed = pack(text)
    for damaged in (packed[:100], packed[:60] + b"\xff\0\xff" + packed[63:]):
        path = written(damaged, f"file.{suffix}")
        with pytest.raises(ValueError, match=r"^io.read_csv: expected a table of text with a header, '.*' is none \("):
            io.read_csv(path)
        if suffix == "gz":
            with pytest.raises(ValueError, match=r"^io.read_gmt: expected UTF-8 text, got something else near line"):
                io.read_gmt(path)


@pytest.mark.parametrize("name", [None, 3, ["a"], {}])
def test_names_of_columns_are_text(written: Any, name: Any) -> None:
    for kind in ("source", "target", "weight", "constraint"):
        with pytest.raises(TypeError, match=rf"^io.read_csv: expected the name of a column as {kind}, got "):
            io.read_csv(written("source,target\na,b\n"), **{kind: name})


def test_columns_that_are_not_asked_for_are_not_read(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    header = ",".join(["note", "source", *(f"gene{k}" for k in range(20_000)), "target"])
    row = ",".join(["x", "a", *["0.5"] * 20_000, "b"])
    read = pd.read_csv
    widths = []

    def noted(*rest: Any, **options: Any) -> Any:
        frame = read(*rest, **options)
        widths.append(1 if "chunksize" in options else frame.shape[1])
        return frame

    monkeypatch.setattr(pd, "read_csv", noted)
    assert io.read_csv(written(f"{header}\n{row}\n")).values.tolist() == [["a", "b"]]
    assert max(widths) == 2
    with pytest.raises(ValueError, match=r"got \['note', .*\] and 19983 more\. Name them"):
        io.read_csv(written(f"{header}\n{row}\n"), target="pathway")


# ---- sets ------------------------------------------------------------------------------------------------------------


def test_sets() -> None:
    frame = io.from_sets({"p": ["a", "b", "a"], 2: {"c"}})
    assert frame.values.tolist() == [["a", "p"], ["b", "p"], ["c", 2]]
    assert SparseLinear.from_edges(frame).topology.outputs == ("p", "2")
    assert io.from_sets({}).empty


def test_members_of_a_python_set_come_in_the_same_order_in_every_process() -> None:
    genes = {f"gene{k}" for k in range(30)} | {7}
    assert io.from_sets({"p": genes, "q": frozenset(genes)}).source.tolist() == 2 * sorted(genes, key=str)
    assert io.from_sets({"p": {"b": 1, "a": 2}.keys()}).source.tolist() == ["b", "a"]  # which has an order


@pytest.mark.parametrize(
    ("sets", "error", "message"),
    [
        ([("a", "b")], TypeError, "expected a dict from sets to their members, got list"),
        ({"p": "abc"}, TypeError, "expected the members of 'p' in a list, got 'abc'"),
        ({"p": 3}, TypeError, "expected the members of 'p' in a list, got 3"),
        ({"p": ["a"], "q": []}, ValueError, "expected members in every set, got none in 'q'. Leave it out"),
    ],
)
def test_sets_that_are_wrong(sets: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^io.from_sets: " + message):
        io.from_sets(sets)


def test_a_gmt_file(written: Any) -> None:
    text = "apoptosis\thttp://somewhere\tTP53\tBAX\tTP53\t\t\r\n\ncycle\t\tMYC"
    expected = [["TP53", "apoptosis"], ["BAX", "apoptosis"], ["MYC", "cycle"]]
    assert io.read_gmt(written(text)).values.tolist() == expected
    assert io.read_gmt(written(gzip.compress(text.encode()), "sets.gmt.gz")).values.tolist() == expected


def test_a_gmt_file_with_weights(written: Any) -> None:
    text = "p\td\tTP53,1.0\tBAX,-2e-1\tTP53,1\nq\t\tMYC, 0.5"
    frame = io.read_gmt(written(text))
    assert frame.values.tolist() == [["TP53", "p", 1.0], ["BAX", "p", -0.2], ["MYC", "q", 0.5]]
    assert SparseLinear.from_edges(frame).values.tolist() == pytest.approx([1.0, -0.2, 0.5])
    assert io.read_gmt(written(text), weights=False).source.tolist() == ["TP53,1.0", "BAX,-2e-1", "TP53,1", "MYC, 0.5"]
    mixed = written("p\td\tbutanediol-2,3\nq\td\tglucose\n")
    with pytest.raises(ValueError, match=r"^io.read_gmt: expected a weight .* got 'glucose' in line 2 .*weights=False"):
        io.read_gmt(mixed)
    assert io.read_gmt(mixed, weights=False).source.tolist() == ["butanediol-2,3", "glucose"]
    with pytest.raises(ValueError, match=r"expected a weight .* got 'a' in line 1"):
        io.read_gmt(written("p\td\ta\n"), weights=True)
    with pytest.raises(ValueError, match=r"expected one weight of 'a' in line 1 of '.*', got two"):
        io.read_gmt(written("p\td\ta,1\ta,2\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "p\td\ta\nq\tdescr",
            r"a set, a description and genes, separated by tabs, got \['q', 'descr'\] in line 2 of '.*'\. The file may be cut off",
        ),
        ("p\td\ta\n\nq", r"got \['q'\] in line 3"),
        ("p,d,a\n", r"got \['p,d,a'\] in line 1 .*another kind"),
        ("\td\ta\n", r"got \['', 'd', 'a'\] in line 1"),
        ("p\td\ta\nq\td\tb\np\td\tc\n", r"each set once, got 'p' in lines 1 and 3"),
        (b"p\td\ta\n\xff\xfe\x00\n", r"UTF-8 text, got something else near line 2"),
        (b"p\td\ta\nq\td\t\x00\n", r"UTF-8 text, got something else near line 2 .*zero byte"),
    ],
)
def test_gmt_files_that_are_wrong(written: Any, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match="^io.read_gmt: expected .*" + message):
        io.read_gmt(written(text))


def test_files_that_are_cut_off_or_missing(written: Any) -> None:
    with pytest.raises(ValueError, match=r"UTF-8 text, got something else near line 1 .*end-of-stream"):
        io.read_gmt(written(gzip.compress(b"p\td\ta\n")[:-10], "cut.gmt.gz"))
    with pytest.raises(FileNotFoundError, match=r"there is no file 'nowhere\.gmt'"):
        io.read_gmt("nowhere.gmt")


# ---- Reactome --------------------------------------------------------------------------------------------------------

MAPPING = "".join(
    f"{protein}\t{pathway}\thttp\tname\tTAS\t{species}\n"
    for protein, pathway, species in [
        ("M1", "R-MMU-1", "Mus musculus"), ("P1", "R-HSA-1", "Homo sapiens"), ("P2", "R-HSA-2", "Homo sapiens"),
        ("P1", "R-HSA-1", "Homo sapiens"), ("P2", "R-HSA-10", "Homo sapiens"),
    ]
)  # fmt: skip
RELATIONS = "R-HSA-10\tR-HSA-1\nR-HSA-10\tR-HSA-2\nR-HSA-20\tR-HSA-10\nR-HSA-10\tR-HSA-3\nR-MMU-10\tR-MMU-1\nR-HSA-10\tR-HSA-1\n"


def test_reactome(written: Any) -> None:
    mapping, relations = written(MAPPING, "mapping"), written(RELATIONS, "relations")
    assert io.read_reactome(mapping, relations).values.tolist() == [
        ["P1", "R-HSA-1", "protein"], ["P2", "R-HSA-2", "protein"], ["P2", "R-HSA-10", "protein"],
        ["R-HSA-1", "R-HSA-10", "pathway"], ["R-HSA-2", "R-HSA-10", "pathway"], ["R-HSA-10", "R-HSA-20", "pathway"],
    ]  # fmt: skip
    mouse = io.read_reactome(mapping, relations, species="Mus musculus")
    assert mouse.values.tolist() == [["M1", "R-MMU-1", "protein"], ["R-MMU-1", "R-MMU-10", "pathway"]]


@pytest.mark.parametrize(
    ("mapping", "relations", "message"),
    [
        (MAPPING + "P3\tR-HSA-1\thttp", RELATIONS, r"protein, pathway, address, name, evidence and species, .* in line 6 of '.*mapping'\. The file may be cut off"),
        (MAPPING, RELATIONS + "R-HSA-1", r"a pathway and its part, separated by tabs, got \['R-HSA-1'\] in line 7 of '.*relations'"),
        (MAPPING, RELATIONS + "R-HSA-1\tR-H", r"got \['R-HSA-1', 'R-H'\] in line 7"),
        (RELATIONS, MAPPING, r"got \['R-HSA-10', 'R-HSA-1'\] in line 1 .*changed places"),
        (MAPPING.replace("Homo", "Hetero"), RELATIONS, r"a species of '.*mapping', got 'Homo sapiens'\. There are \['Hetero sapiens', 'Mus musculus'\]"),
        ("", RELATIONS, r"a species of '.*', got 'Homo sapiens'\. There are \[\]"),
    ],
)  # fmt: skip
def test_tables_of_reactome_that_are_wrong(written: Any, mapping: str, relations: str, message: str) -> None:
    with pytest.raises(ValueError, match="^io.read_reactome: expected .*" + message):
        io.read_reactome(written(mapping, "mapping"), written(relations, "relations"))


# ---- graphs ----------------------------------------------------------------------------------------------------------


def test_networkx_graphs() -> None:
    graph = nx.DiGraph([("a", "x", {"weight": 2.0}), ("b", "x", {"weight": -1.0, "constraint": "fixed"})])
    graph.add_node("alone")
    frame = io.from_networkx(graph)
    assert frame.drop(columns="constraint").values.tolist() == [["a", "x", 2.0], ["b", "x", -1.0]]
    assert frame.constraint.tolist()[1] == "fixed"
    assert pd.isna(frame.constraint[0])
    assert list(io.from_networkx(nx.DiGraph([("a", "x", {"size": 1})])).columns) == ["source", "target"]
    assert io.from_networkx(nx.DiGraph([("a", "x", {"size": 1})]), weight="size").weight.tolist() == [1]
    assert io.from_networkx(nx.MultiDiGraph([("a", "x"), ("x", "a")])).values.tolist() == [["a", "x"], ["x", "a"]]
    assert io.from_networkx(nx.DiGraph()).empty


@pytest.mark.parametrize(
    ("graph", "error", "message"),
    [
        (nx.Graph([("a", "b")]), ValueError, r"expected a directed graph, got an undirected Graph.*\.to_directed\(\)"),
        (nx.MultiDiGraph([("a", "b"), ("c", "d"), ("c", "d")]), ValueError, r"one edge between two nodes, got \('c', 'd'\) more than once"),
        (nx.DiGraph([("a", "b", {"weight": 1}), ("b", "c", {})]), ValueError, r"'weight' on all edges or on none, edge \('b', 'c'\) has none"),
        ([("a", "b")], TypeError, r"expected a networkx.DiGraph, got list"),
    ],
)  # fmt: skip
def test_graphs_that_are_wrong(graph: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^io.from_networkx: .*" + message):
        io.from_networkx(graph)


@pytest.mark.parametrize("index", [torch.tensor, np.array, list])
def test_edge_indices(index: Any) -> None:
    edge_index = index([[0, 1, 1], [2, 0, 2]])
    assert io.from_edge_index(edge_index).values.tolist() == [[0, 2], [1, 0], [1, 2]]
    frame = io.from_edge_index(edge_index, index([[0.5], [1.5], [2.5]]), names=["a", "b", 7])
    assert frame.values.tolist() == [["a", "7", 0.5], ["b", "a", 1.5], ["b", "7", 2.5]]
    assert io.from_edge_index(edge_index, index([1.0, 2.0, 3.0])).weight.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[0, 1], [1, 2], [2, 0]],), ValueError, r"edge_index of shape \(2, edges\), got \(3, 2\)\. .*\.t\(\)"),
        (([[0.5], [1.0]],), TypeError, r"edge_index to hold integers, got torch.float64"),
        (([[0, -1], [1, 1]],), IndexError, r"edge_index from 0 to \d+, got -1 at position 1"),
        (([[0], [3]], None, ["a", "b"]), IndexError, r"edge_index from 0 to 1, got 3 at position 0"),
        (([[0], [-1]], None, ["a", "b"]), IndexError, r"edge_index from 0 to 1, got -1"),
        (([[0], [1]], None, ["a", "a"]), ValueError, r"distinct names in names, got 'a' and 'a'"),
        (([[0], [1]], [1j]), TypeError, "real edge_attr, got torch.complex"),
        (([[0], [1]], [[1.0, 2.0]]), ValueError, r"edge_attr of shape \(1,\) or \(1, 1\), .* got \(1, 2\)\. Choose"),
    ],
)
def test_edge_indices_that_are_wrong(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^io.from_edge_index: expected " + message):
        io.from_edge_index(*arguments)


def test_torch_sparse_tensors() -> None:
    sparse = pytest.importorskip("torch_sparse")
    t = Topology.from_mask([[0, 1, 1], [0, 0, 0], [1, 0, 1]])
    values = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    tensor = io.to_torch_sparse(t, values)
    x = torch.randn(3, 2)
    dense = torch.zeros(3, 3).index_put((t.row.long(), t.col.long()), values)
    torch.testing.assert_close(sparse.matmul(tensor, x), dense @ x)
    gradient, expected = (torch.autograd.grad((y * y).sum(), values)[0] for y in (sparse.matmul(tensor, x), dense @ x))
    torch.testing.assert_close(gradient, expected)
    again, same = io.from_torch_sparse(tensor)
    assert again.digest == t.digest
    assert torch.equal(same, values)
    assert same.requires_grad
    bare, nothing = io.from_torch_sparse(io.to_torch_sparse(t))
    assert (bare.digest, nothing) == (t.digest, None)
    unsorted = sparse.SparseTensor(row=torch.tensor([1, 0]), col=torch.tensor([0, 1]), value=torch.tensor([5.0, 6.0]))
    assert io.from_torch_sparse(unsorted)[1].tolist() == [6.0, 5.0]
    with pytest.raises(
        ValueError, match=r"^io.from_torch_sparse: expected one value at each entry, got values of shape \(4, 2\)"
    ):
        io.from_torch_sparse(io.to_torch_sparse(t).set_value(torch.ones(4, 2), layout="coo"))
    twice = sparse.SparseTensor(row=torch.tensor([0, 0]), col=torch.tensor([1, 1]))
    with pytest.raises(ValueError, match=r"^io.from_torch_sparse: .*column 1 twice in row 0.*tensor.coalesce\(\)"):
        io.from_torch_sparse(twice)
    with pytest.raises(ValueError, match=r"^io.to_torch_sparse: expected 4 values, got shape \(3,\)"):
        io.to_torch_sparse(t, torch.ones(3))


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_sparse", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"^io.to_torch_sparse: expected the package torch_sparse.*pip install torch-sparse$",
    ):
        io.to_torch_sparse(Topology.from_mask([[1]]))
    with pytest.raises(TypeError, match=r"^io.from_torch_sparse: expected a torch_sparse\.SparseTensor, got Tensor"):
        io.from_torch_sparse(torch.eye(2))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"^io.from_sets: expected the package pandas.*pip install pandas$"):
        io.from_sets({"p": ["a"]})


def test_attributes_that_no_edge_has_are_named() -> None:
    graph = nx.DiGraph([(1, 2, {"weight": 1.0})])
    with pytest.raises(ValueError, match="expected edges with the attribute 'wieght', none has it"):
        io.from_networkx(graph, weight="wieght")
