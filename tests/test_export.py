"""Models that leave: a dense copy, ONNX, torch.export and AOTInductor."""

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vision_models import ResNet, VisionTransformer

import sparsetrain as st
from sparsetrain.nn import LookupTable, MaskedLinear, SparseDeltaLinear, SparseLinear

# torch's own words in its exporters
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript.*"),
]

BATCH = torch.export.Dim("batch")


def constrained() -> nn.Module:
    layer = SparseLinear(20, 10, density=0.3)
    st.constrain.positive(layer, project=True)
    return nn.Sequential(layer)


def tied() -> nn.Module:
    encoder = SparseLinear(20, 10, density=0.3)
    st.constrain.bounded(encoder, -0.1, 0.1, project=True)
    return nn.Sequential(encoder, nn.Tanh(), encoder.transposed())


def delta() -> nn.Module:
    layer = SparseDeltaLinear(nn.Linear(20, 10), st.patterns.uniform((10, 20), 0.2))
    nn.init.normal_(layer.values)
    return nn.Sequential(layer)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "SparseLinear": (lambda: SparseLinear(20, 10, density=0.3), lambda: torch.randn(4, 20)),
    "no bias, 3d": (lambda: SparseLinear(20, 10, density=0.3, bias=False), lambda: torch.randn(4, 6, 20)),
    "full": (lambda: SparseLinear(20, 10, density=1.0), lambda: torch.randn(4, 20)),
    "constrained": (constrained, lambda: torch.randn(4, 20)),
    "tied": (tied, lambda: torch.randn(4, 20)),
    "MaskedLinear": (lambda: MaskedLinear(20, 10, density=0.3), lambda: torch.randn(4, 20)),
    "SparseDeltaLinear": (delta, lambda: torch.randn(4, 20)),
    "Hierarchy": (
        lambda: st.convert.from_hierarchy([("a", "m"), ("b", "m"), ("m", "o"), ("a", "o")]), lambda: torch.randn(4, 2)
    ),
    "LookupTable": (lambda: LookupTable(30, 4, padding_idx=2), lambda: torch.randint(30, (4, 3))),
    "bag sum": (lambda: LookupTable(30, 4, pool="sum", padding_idx=2), lambda: torch.randint(30, (4, 3))),
    "bag mean": (lambda: LookupTable(30, 4, pool="mean"), lambda: torch.randint(30, (4, 3))),
    "bag max": (lambda: LookupTable(30, 4, pool="max", padding_idx=2), lambda: torch.randint(30, (4, 3))),
    "ViT": (lambda: st.convert.sparsify(VisionTransformer(), {"blocks.*": 0.2}), lambda: torch.randn(4, 1, 8, 8)),
    "ResNet": (lambda: st.convert.sparsify(ResNet(), 0.2), lambda: torch.randn(4, 1, 8, 8)),
}  # fmt: skip
every_model = pytest.mark.parametrize("kind", MODELS)


def made(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in evaluation mode, an input, and one of another batch size."""
    torch.manual_seed(0)
    make, sample = MODELS[kind]
    x = sample()
    return make().eval(), x, torch.cat([x, sample()])


# ---- a dense copy ----------------------------------------------------------------------------------------------------


@every_model
def test_a_dense_copy_computes_the_same(kind: str) -> None:
    model, x, _ = made(kind)
    before = copy.deepcopy(model.state_dict())
    dense = st.convert.dense_copy(model)
    assert not any(isinstance(m, st.nn.SparseLinear | MaskedLinear | SparseDeltaLinear) for m in dense.modules())
    torch.testing.assert_close(dense(x), model(x))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert {p.data_ptr() for p in dense.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())


def test_zeros_are_exact_where_no_edge_is() -> None:
    model = tied()
    dense, mask = st.convert.dense_copy(model), model[0].topology.to_mask() != 0
    assert torch.equal(dense[0].weight != 0, mask)
    assert torch.equal(dense[2].weight != 0, mask.t())


def test_a_dense_copy_keeps_mode_hooks_and_half_precision() -> None:
    model = st.convert.sparsify(nn.Sequential(nn.Linear(20, 10)).to(torch.bfloat16), 0.3)
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    dense = st.convert.dense_copy(model)
    x = torch.randn(4, 20, dtype=torch.bfloat16)
    torch.testing.assert_close(dense(x), model(x), rtol=1e-2, atol=1e-2)
    assert calls == [1, 1]
    assert dense.training
    assert {p.dtype for p in dense.parameters()} == {torch.bfloat16}
    with pytest.raises(TypeError, match="expected a module, got dict"):
        st.convert.dense_copy({})  # type: ignore[arg-type]


# ---- torch.export ----------------------------------------------------------------------------------------------------


@every_model
def test_torch_export_with_any_batch_size(kind: str) -> None:
    model, x, other = made(kind)
    for grad in (True, False) if "bag" in kind or kind == "LookupTable" else (False,):
        with torch.set_grad_enabled(grad):
            program = torch.export.export(nn.Sequential(model), (x,), dynamic_shapes=({0: BATCH},))
            torch.testing.assert_close(program.module()(other), model(other))
        if not grad:
            assert not [node for node in program.graph.nodes if "sparsetrain.lookup" in str(node.target)]


def test_an_exported_program_is_saved_and_trains(tmp_path: Path) -> None:
    model, x, other = made("ViT")
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: BATCH},)), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    program(other).square().sum().backward()
    model(other).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(program.get_parameter(name).grad, p.grad)


ELSEWHERE = """
import sys, torch
file, data = sys.argv[1:]
x, expected = torch.load(data)
try:
    torch._inductor.aoti_load_package(file)
except RuntimeError as error:
    print(error)
import sparsetrain
torch.testing.assert_close(torch._inductor.aoti_load_package(file)(x), expected)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles C++, and there is no g++")
def test_aot_inductor(tmp_path: Path) -> None:
    """In a process of its own: it runs once sparsetrain is imported, and says what is missing before."""
    model, x, other = made("SparseLinear")
    with torch.no_grad():
        program = torch.export.export(nn.Sequential(model), (x,), dynamic_shapes=({0: BATCH},))
        torch.save((other, model(other)), tmp_path / "data.pt")
    package = torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(tmp_path / "model.pt2"),
        inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},  # of the C++, which takes long
    )
    command = [sys.executable, "-c", ELSEWHERE, str(package), str(tmp_path / "data.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Could not find schema for sparsetrain::spmm" in done.stdout


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def exported(model: nn.Module, x: Tensor, path: Path) -> tuple[Any, Any]:
    onnx = pytest.importorskip("onnx", reason="needs the extra test")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra test")
    pytest.importorskip("onnxscript", reason="needs the extra test")
    st.convert.to_onnx(model, (x,), path, dynamic_shapes=({0: BATCH},))
    return onnx.load(path), runtime.InferenceSession(str(path))


@pytest.mark.parametrize("kind", ["tied", "LookupTable", "bag sum", "bag max", "ResNet"])
def test_onnx_computes_the_same(kind: str, tmp_path: Path) -> None:
    """What else there is comes as a dense copy, which is compared above."""
    model, x, other = made(kind)
    model.train()
    before = copy.deepcopy(model.state_dict())
    _, session = exported(model, x, tmp_path / "model.onnx")
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    [y] = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(y), model.eval()(other), rtol=1e-4, atol=1e-5)


def test_zeros_in_an_onnx_file_are_exact(tmp_path: Path) -> None:
    model, x, _ = made("ViT")
    content, _ = exported(model, x, tmp_path / "model.onnx")
    weights = [torch.from_numpy(numbers(tensor)) for tensor in content.graph.initializer]
    for layer in model.modules():
        if isinstance(layer, SparseLinear):
            dense = layer.to_dense().weight.detach()
            assert any(torch.equal(dense, w) or torch.equal(dense.t(), w) for w in weights if w.ndim == 2)


def numbers(tensor: Any) -> Any:
    return pytest.importorskip("onnx").numpy_helper.to_array(tensor).copy()


def test_what_to_onnx_refuses(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected args to be a tuple of inputs, got Tensor"):
        st.convert.to_onnx(SparseLinear(3, 2, density=0.5), torch.ones(1, 3), tmp_path / "m.onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
