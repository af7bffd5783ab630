"""A state dict is the user's own: nothing written into it, and nothing done before, reaches the layer's edges."""

import io

import pytest
import torch

import sparsetrain as st


def test_writing_into_a_state_dict_leaves_the_edges_alone() -> None:
    layer = st.nn.SparseLinear(20, 10, density=0.3)
    crow, col = layer.topology.crow.clone(), layer.topology.col.clone()
    for name, tensor in layer.state_dict().items():
        if name not in ("values", "bias"):
            tensor.zero_()
    assert torch.equal(layer.topology.crow, crow)
    assert torch.equal(layer.topology.col, col)


def test_a_compiled_layer_saves_what_torch_loads_by_default() -> None:
    torch._dynamo.reset()
    layer, file = st.nn.SparseLinear(20, 10, density=0.3), io.BytesIO()
    torch.compile(layer, backend="aot_eager")(torch.ones(2, 20)).sum().backward()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    layer.load_state_dict(torch.load(file, weights_only=True))


def test_names_are_compared(tmp_path: object) -> None:
    def layer(*inputs: str) -> st.nn.SparseLinear:
        t = st.Topology.from_edges([("a", "y"), ("b", "y")], inputs=inputs)
        return st.nn.SparseLinear(2, 1, topology=t)

    stored, other = layer("a", "b"), layer("b", "a")
    with pytest.raises(
        RuntimeError, match="expected the same names in inputs, the checkpoint has 'a' where the layer has 'b'"
    ):
        other.load_state_dict(stored.state_dict())
    path = f"{tmp_path}/layer.safetensors"
    st.io.save(path, stored)
    with pytest.raises(ValueError, match="expected the same names in inputs"):
        st.io.load(path, other)
    st.io.load(path, other, topology="adopt")
    assert other.topology.inputs == ("a", "b")
    assert torch.equal(other.values, stored.values)


def test_edges_made_in_inference_mode_train() -> None:
    torch._dynamo.reset()
    with torch.inference_mode():
        t = st.patterns.uniform((10, 20), 0.3)
    layer = st.nn.SparseLinear(20, 10, topology=t)
    torch.compile(layer, backend="aot_eager")(torch.ones(2, 20)).sum().backward()
    assert layer.values.grad is not None
