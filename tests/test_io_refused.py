"""Files that do not fit: each is refused with a reason, and nothing is changed."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import Evolver, adam, edges, identical, network, snapshot, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

import sparsetrain as st
from sparsetrain.edges.packed_edges import packed
from sparsetrain.io import archive, load, nested, save
from sparsetrain.nn import MaskedLinear, SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def check_refused(path: Path, error: type[Exception], message: str, *parts: Any, **options: Any) -> None:
    before = snapshot(*parts)
    with pytest.raises(error, match=re.escape(message)):
        load(path, *parts, **options)
    assert identical(snapshot(*parts), before)


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], Any]) -> None:
    """Change the tensors and the header of a file, as if it had no checksum: older ones have none."""
    with safe_open(path, "pt") as file:
        header = dict(file.metadata())
    del header["checksum"]
    tensors = load_file(path)
    change(tensors, header)
    save_file(tensors, path, header)


def test_missing_file(path: Path) -> None:
    check_refused(path, FileNotFoundError, f"io.load: expected a checkpoint, there is no file '{path}'.", network())
    check_refused(path / "file", FileNotFoundError, "there is no file", network())
    check_refused(
        path.parent, IsADirectoryError, f"io.load: expected a checkpoint, '{path.parent}' is a folder.", network()
    )
    check_refused(
        Path(os.devnull), OSError, "io.load: expected a checkpoint, '/dev/null' is no regular file.", network()
    )
    check_refused(
        Path("a\0b"), ValueError, "io.load: expected the path of a file, got 'a\\x00b' with a zero", network()
    )


@pytest.mark.parametrize("left", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_cut_off_in_the_middle(path: Path, left: float) -> None:
    model = network()
    optimizer = adam(model)
    train(model, optimizer)
    save(path, model, optimizer)
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data))])
    check_refused(path, ValueError, "is no whole safetensors file", model, optimizer)


def test_not_a_checkpoint(path: Path) -> None:
    path.write_bytes(os.urandom(1000))
    check_refused(path, ValueError, "is no whole safetensors file", network())
    torch.save(network().state_dict(), path)
    check_refused(path, ValueError, "is no whole safetensors file", network())
    save_file(network().state_dict(), path)
    check_refused(path, ValueError, "expected a checkpoint written by io.save", network())


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", '{"model": {"tensor": "nowhere"}}', '{"model": {"dict": [[{"dict": []}, 1]]}}', '{"model": {}}',
        '{"model": {"call": "os.system"}}', '{"model": ' + "[" * 10**5 + "]" * 10**5 + "}",
    ],
    ids=lambda content: content[:30],
)  # fmt: skip
def test_damaged_contents(path: Path, content: str) -> None:
    save(path, network())
    rewritten(path, lambda _, header: header.update(content=content))
    check_refused(path, ValueError, "are damaged", network())


def test_another_version(path: Path) -> None:
    save(path, network())
    rewritten(path, lambda _, header: header.update(version="2"))
    check_refused(path, ValueError, "expected a checkpoint of version 1, ", network())


def test_keys_shapes_and_dtypes(path: Path) -> None:
    model = network()
    save(path, model)
    shorter, longer = model[:4], nn.Sequential(*model, nn.Linear(2, 2))
    check_refused(path, ValueError, "of this Sequential, it has also 4.weight, 4.bias.", shorter)
    check_refused(path, ValueError, "of this Sequential, it lacks 5.weight, 5.bias.", longer)
    wider = nn.Sequential(*network()[:4], nn.Linear(6, 3))
    check_refused(path, ValueError, "io.load: expected 4.weight of shape (3, 6), the checkpoint has (2, 6).", wider)
    check_refused(
        path, TypeError, "io.load: expected 0.values in torch.float64, the checkpoint has torch.float32.",
        network().double(),
    )  # fmt: skip
    dense = st.convert.densify(network())
    check_refused(path, ValueError, "it lacks 0.weight, 3.weight and has also 0.values, 0._extra_state", dense)


def test_another_topology(path: Path) -> None:
    model, other = network(0), network(3)
    save(path, model)
    check_refused(
        path, ValueError,
        "io.load: SparseLinear 0: expected the same 12 edges, the checkpoint has other edges (12).", other,
    )  # fmt: skip
    model, other = SparseLinear(2, 3, density=0.4), SparseLinear(2, 3, density=0.5)
    save(path, model)
    check_refused(path, ValueError, "io.load: SparseLinear (the model itself): expected the same 3 edges", other)
    narrow = SparseLinear(3, 3, density=0.5)
    check_refused(
        path, ValueError, "expected edges of shape (3, 3), the checkpoint has (3, 2).", narrow, topology="adopt"
    )
    check_refused(path, ValueError, "expected topology to be 'strict' or 'adopt', got 'any'.", narrow, topology="any")


def test_damaged_edges_are_not_adopted(path: Path) -> None:
    other = SparseLinear(5, 6, topology=edges(1))

    def stored(**tensors: Tensor) -> None:
        save(path, SparseLinear(5, 6, topology=edges(0)))
        rewritten(path, lambda all_tensors, _: all_tensors.update({f"model/{k}": v for k, v in tensors.items()}))

    def shifted(by: int) -> Tensor:
        state = packed(edges(0))
        state[-12:] += by  # the columns
        return state

    mixed = torch.cat([packed(edges(0))[:-18], packed(edges(2))[-18:]])  # with the digest of other edges
    for tensors, fault in (
        ({"_extra_state": shifted(5)}, "edges are damaged. Topology: expected col from 0 to 4"),
        ({"_extra_state": packed(edges(0))[:-1].clone()}, "edges are damaged: their sizes disagree"),
        ({"_extra_state": mixed}, "edges are damaged: Topology(shape=(6, 5), nnz=12"),
        ({"values": torch.ones(11)}, "edges are damaged: Topology(shape=(6, 5), nnz=12, density=0.4) with 11 values."),
    ):
        stored(**tensors)
        check_refused(path, ValueError, f"io.load: SparseLinear (the model itself): the stored {fault}", other,
                      topology="adopt")  # fmt: skip


def test_computed_values_do_not_adopt(path: Path) -> None:
    layers = [SparseLinear(5, 6, topology=edges(seed)) for seed in (0, 0, 1)]
    for layer in layers:
        parametrize.register_parametrization(layer, "values", nn.Softplus(), unsafe=True)
    save(path, layers[0])
    load(path, layers[1])
    assert identical(layers[1].state_dict(), layers[0].state_dict())
    check_refused(path, ValueError, "can't adopt edges, as its values are computed from others", layers[2],
                  topology="adopt")  # fmt: skip


def test_optimizers_that_do_not_fit(path: Path) -> None:
    model = network()
    save(path, model)
    check_refused(path, ValueError, "expected a checkpoint with an optimizer, it was saved without", model, adam(model))
    train(model, optimizer := adam(model))
    save(path, model, optimizer)
    check_refused(
        path, ValueError, "expected an optimizer of class SGD, the checkpoint has Adam.",
        model, torch.optim.SGD(model.parameters(), lr=0.1),
    )  # fmt: skip
    check_refused(
        path, ValueError, "expected parameter groups of sizes [2], the checkpoint's optimizer has [8].",
        model, torch.optim.Adam(model[0].parameters()),
    )  # fmt: skip
    groups = [{"params": model[:3].parameters()}, {"params": model[3:].parameters(), "lr": 0.1}]
    check_refused(
        path, ValueError, "expected parameter groups of sizes [4, 4], the checkpoint's", model, torch.optim.Adam(groups)
    )
    check_refused(
        path, ValueError,
        "expected parameter 0 of group 0 to be 4.bias of shape (2,), the checkpoint's optimizer has 0.values of shape (12,)",
        model, torch.optim.Adam(list(model.parameters())[::-1]),
    )  # fmt: skip


class OtherEvolver(Evolver):
    pass


@pytest.mark.parametrize("seed", [0, 5])  # of the edges: the same, or others
@pytest.mark.parametrize("missing", ["step", "exp_avg", "betas"])
@pytest.mark.parametrize("kind", [torch.optim.Adam, st.optim.Adam], ids=["torch's", "ours"])
def test_an_optimizer_that_refuses_its_state(path: Path, kind: Any, missing: str, seed: int) -> None:
    """Which it does by itself, after everything was checked here: the model is as it was. torch's takes two of these."""
    model = network()
    optimizer = kind(model.parameters(), lr=0.01)
    train(model, optimizer)
    save(path, model, optimizer)
    content = archive.read("test", path)
    state = content["optimizer"]["state"]
    for each in (*state["state"].values(), *state["param_groups"]):
        each.pop(missing, None)
    archive.write("test", path, content)
    other = network(seed)
    parts = other, kind(other.parameters(), lr=0.02)
    train(*parts, 1)
    if kind is torch.optim.Adam and missing != "step":
        return load(path, *parts, topology="adopt")
    error, message = (KeyError, "step") if kind is torch.optim.Adam else (ValueError, missing)
    return check_refused(path, error, message, *parts, topology="adopt")


def test_masks_of_other_numbers(path: Path) -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 6), MaskedLinear(6, 4, density=0.5))

    soft = model()
    soft[1].mask[0, 0] = 0.5  # type: ignore[index]
    save(path, soft)
    check_refused(path, RuntimeError, "expected a mask of zeros and ones", model())


def test_tensors_that_nothing_can_be_written_into(path: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self, shift: Tensor) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("shift", shift)

    with torch.inference_mode():
        of_inference = torch.ones(3)
    for shift, found in (
        (torch.ones(1).expand(3), "numbers share their memory (expand)"),
        (of_inference, "one of torch.inference_mode"),
    ):
        save(path, Shifted(shift))
        with pytest.raises(ValueError, match=re.escape(found)):
            load(path, Shifted(shift))
        check_refused(path, ValueError, "expected shift to be a tensor that can be written into", Shifted(shift))
    load(path, Shifted(torch.ones(1, 3).expand(1, 3)[0]))


def test_evolvers_that_do_not_fit(path: Path) -> None:
    model = network()
    save(path, model)
    check_refused(path, ValueError, "expected a checkpoint with an evolver", model, None, Evolver())
    save(path, model, None, OtherEvolver())
    check_refused(path, ValueError, "expected an evolver of class Evolver, the checkpoint has OtherEvolver.", model, None,
                  Evolver())  # fmt: skip


@pytest.mark.parametrize(("topology", "density"), [("strict", 0.4), ("adopt", 0.7), ("adopt", 0.4)])
def test_an_error_at_the_very_end_undoes_everything(path: Path, topology: Any, density: float) -> None:
    model, evolver = network(0), Evolver()
    optimizer = adam(model)
    train(model, optimizer)
    evolver.steps = 13  # its load_state_dict refuses that
    save(path, model, optimizer, evolver)
    other = network(0) if topology == "strict" else network(3, density)
    resumed = adam(other)
    train(other, resumed, 1)
    state, groups = resumed.state, resumed.param_groups
    parts = other, resumed, Evolver(seed=3)
    before = [part for part in snapshot(*parts) if part]
    gradients = [(p.grad, p.grad.clone()) for p in other.parameters() if p.grad is not None]
    assert len(gradients) == len(list(other.parameters()))
    with pytest.raises(KeyError, match="unlucky"):
        load(path, *parts, topology=topology)
    assert identical([part for part in snapshot(*parts) if part], before)
    assert resumed.state is state
    assert resumed.param_groups is groups
    for p, (grad, numbers) in zip(other.parameters(), gradients, strict=True):
        assert p.grad is grad
        assert torch.equal(grad, numbers)
    train(other, resumed, 1)


def test_loading_runs_no_code(path: Path) -> None:
    """The header is JSON, and whatever it says, types other than plain ones don't come out of it."""
    save(path, MaskedLinear(3, 2, density=0.5))
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["content"])
    kinds = set(re.findall(r'\{"(\w+)": ', json.dumps(content["model"])))
    assert kinds == {"dict", "tensor"}
    with pytest.raises(ValueError, match="unknown kind"):
        nested.unpacked({"eval": "1"}, {})


def test_a_lazy_model_is_called_before(path: Path) -> None:
    def lazy() -> nn.Sequential:
        return nn.Sequential(nn.LazyLinear(4), SparseLinear(4, 3, topology=edges(0, (3, 4))))

    model, message = lazy(), "expected a model whose parameters have shapes, 0.weight has none before the first batch"
    with pytest.raises(ValueError, match=re.escape(f"io.save: {message}")):
        save(path, model)
    model(torch.ones(2, 5))
    save(path, model)
    with pytest.raises(ValueError, match=re.escape(f"io.load: {message}")):
        load(path, lazy())
    with pytest.raises(ValueError, match=re.escape(f"io.adopt: {message}")):
        st.io.adopt(lazy(), model.state_dict())


def test_a_wrapper_around_the_model_is_named(path: Path) -> None:
    model = network(0)
    wrapped = torch.optim.swa_utils.AveragedModel(model)  # keys of DistributedDataParallel, and a count of its own
    with_count = wrapped.state_dict()
    bare = {key.removeprefix("module."): each for key, each in with_count.items() if key != "n_averaged"}
    inside = nn.ModuleDict({"module": model})
    optimizer = adam(inside)
    train(inside["module"], optimizer, 1)
    save(path, inside, optimizer)
    message = "a wrapper around the model, whose keys begin with 'module.'"
    check_refused(path, ValueError, message, network(0), None)
    with pytest.raises(ValueError, match=re.escape(message)):
        st.io.adopt(network(0), inside.state_dict())
    other = network(3)
    as_it_was = nn.ModuleDict({"module": other})
    load(path, as_it_was, adam(as_it_was), topology="adopt")  # what the message says
    assert identical(other.state_dict(), model.state_dict())
    with pytest.raises(
        ValueError, match=re.escape("without the wrapper around this model. Load it into what is wrapped, .module.")
    ):
        st.io.adopt(inside, bare)
    with pytest.raises(ValueError, match=re.escape(message)):
        st.io.adopt(network(0), with_count)
