"""Sparse layers in models of transformers, accelerate and Lightning."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import SparseLinear

EXTRA = "_extra_state"


@pytest.fixture(autouse=True)
def _warnings_of_theirs() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def network() -> nn.Sequential:
    return nn.Sequential(SparseLinear(20, 30, density=0.2), nn.ReLU(), nn.Linear(30, 5))


def pretrained_classes() -> tuple[Any, Any]:
    """A configuration, and a model that sparsifies in its ``__init__``, as a user would write them."""
    transformers = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):  # type: ignore[misc, name-defined]
        model_type = "sparse-toy"

        def __init__(self, density: float = 0.2, **more: Any) -> None:
            super().__init__(**more)
            self.density = density

    class Model(transformers.PreTrainedModel):  # type: ignore[misc, name-defined]
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
            self.direct = SparseLinear(5, 4, density=0.5)
            st.convert.sparsify(self.net, config.density)
            self.post_init()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.direct(self.net(x))
            return y

        def _init_weights(self, module: nn.Module) -> None:
            if isinstance(module, SparseLinear):
                module.reset_parameters()
            else:
                super()._init_weights(module)

    return Config, Model


@pytest.mark.parametrize("density", [0.2, 0.4])
def test_a_model_that_sparsifies_itself_comes_from_pretrained(tmp_path: Path, density: float) -> None:
    Config, Model = pretrained_classes()
    model = Model(Config(density=density))
    nn.init.normal_(model.net[0].values)
    model.save_pretrained(tmp_path)
    other, info = Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert [layer.topology.digest for layer in (other.net[0], other.direct)] == [
        layer.topology.digest for layer in (model.net[0], model.direct)
    ]
    x = torch.randn(3, 20)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    other(x).sum().backward()
    assert other.net[0].values.grad is not None


def test_layers_that_a_checkpoint_lacks_are_initialized(tmp_path: Path) -> None:
    Config, Model = pretrained_classes()
    model = Model(Config())
    there = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("direct")}
    model.save_pretrained(tmp_path, state_dict=there)
    other = Model.from_pretrained(tmp_path)
    assert other.net[2].values.equal(model.net[2].values)
    assert other.direct.values.abs().max() <= 0.4**0.5
    assert other(torch.randn(3, 20)).isfinite().all()


def test_a_sparsified_model_of_transformers_goes_round(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    model = transformers.BertModel(config).eval()
    st.convert.sparsify(model, 0.2)
    model.save_pretrained(tmp_path)

    other = transformers.BertModel(transformers.BertConfig.from_pretrained(tmp_path)).eval()
    st.convert.sparsify(other, 0.2)
    st.io.adopt(other, load_file(tmp_path / "model.safetensors"))
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(other(ids)[0], model(ids)[0], rtol=0, atol=0)


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
def test_accelerate_loads_what_safetensors_hold(tmp_path: Path, device_map: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    from safetensors.torch import save_file

    model = network()
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    with accelerate.init_empty_weights():
        empty = network()
    other = accelerate.load_checkpoint_and_dispatch(empty, tmp_path, device_map=device_map, strict=True)
    x = torch.randn(3, 20)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    same = nn.Sequential(SparseLinear(20, 30, topology=model[0].topology), nn.ReLU(), nn.Linear(30, 5))
    for given in (None, device_map):
        other = accelerate.load_checkpoint_and_dispatch(same, tmp_path, device_map=given)
        torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
        with pytest.raises((RuntimeError, ValueError), match="expected the same 120 edges"):
            accelerate.load_checkpoint_and_dispatch(network(), tmp_path, device_map=given)


def test_extra_state_set_as_a_buffer_is_compared() -> None:
    """What accelerate does, without accelerate."""
    layers = [SparseLinear(20, 30, density=0.2) for _ in range(2)]
    assert EXTRA in layers[0]._buffers
    assert list(layers[0].buffers()) == []
    layers[0]._buffers[EXTRA] = layers[0].state_dict()[EXTRA]
    with pytest.raises(ValueError, match="expected the same 120 edges"):
        layers[0]._buffers[EXTRA] = layers[1].state_dict()[EXTRA]
    with pytest.raises(ValueError, match="expected edges that hold numbers, got a meta tensor"):
        layers[0]._buffers[EXTRA] = layers[0].state_dict()[EXTRA].to("meta")
    with torch.device("meta"):
        empty = st.convert.sparsify(nn.Sequential(nn.Linear(20, 30)), 0.2)
    empty[0]._buffers[EXTRA] = layers[0].state_dict()[EXTRA]
    assert empty[0].topology.digest == layers[0].topology.digest


class Loop:
    """The parts of a Lightning module and its trainer that concern states, for where it is not installed."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        st.io.adopt(self, checkpoint["state_dict"])  # type: ignore[arg-type]


class Plain(Loop, nn.Sequential):
    pass


def test_a_hook_on_loading_adopts(tmp_path: Path) -> None:
    model, other = Plain(*network()), Plain(*network())
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 20)).sum().backward()
    optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.ckpt")
    resumed = torch.optim.Adam(other.parameters())
    checkpoint = torch.load(tmp_path / "c.ckpt", weights_only=True)
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    resumed.load_state_dict(checkpoint["optimizer"])
    x = torch.randn(3, 20)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)


def test_lightning_loads_and_resumes(tmp_path: Path) -> None:
    lightning = pytest.importorskip("pytorch_lightning")
    x, y = torch.randn(32, 20), torch.randn(32, 5)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return (self.net(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self) -> Any:
            return st.optim.AdamW(self.parameters(), lr=0.01)

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            st.io.adopt(self, checkpoint["state_dict"])

    def trained(epochs: int, checkpoint: Path | None = None) -> tuple[Any, Any]:
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
            enable_progress_bar=False, default_root_dir=tmp_path,
        )  # fmt: skip
        model = Module()
        if checkpoint is None:
            st.io.adopt(model, start)
        trainer.fit(model, data, ckpt_path=checkpoint)
        return model, trainer

    start = Module().state_dict()
    whole, _ = trained(2)
    half, trainer = trained(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    loaded = Module.load_from_checkpoint(tmp_path / "half.ckpt")
    torch.testing.assert_close(loaded.net(x), half.net(x), rtol=0, atol=0)
    resumed, _ = trained(2, tmp_path / "half.ckpt")
    assert resumed.net[0].topology.digest == whole.net[0].topology.digest
    torch.testing.assert_close(resumed.net(x), whole.net(x), rtol=0, atol=0)
