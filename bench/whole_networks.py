"""Training steps of whole networks: a ResNet-18 for 32 x 32 images, and an encoder in the shape of BERT-base.

    python bench/whole_networks.py [resnet bert] [--densities 0.05 0.02] [--threads 2] [--rounds 5] [--layers 4]

Forward, backward and SGD with momentum, in rounds in which dense and sparse networks take turns; dense convolutions in
torch's two layouts, dense products by both libraries that torch has, and SparseProp where it is installed. Medians over
rounds of milliseconds, and of the ratio to the sparse network's time in the same round.
"""

import argparse
import copy
import random
import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from sparsetrain_bench.case import installed
from sparsetrain_bench.engines.precision import onednn_allowed
from sparsetrain_bench.rounds import measure, ratio
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

import sparsetrain as st


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(h)) + self.shortcut(x))


def resnet18() -> nn.Sequential:
    """ResNet-18 as it is used for CIFAR: a first convolution of 3 x 3, and no pooling after it."""
    widths = [64, 64, 128, 256, 512]
    stages = [
        nn.Sequential(Block(before, after, 1 if before == after else 2), Block(after, after, 1))
        for before, after in pairwise(widths)
    ]
    first = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*first, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Step:
    """A training step of one network."""

    def __init__(self, model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], onednn: bool = True) -> None:
        self.model, self.x, self.loss, self.onednn = model.train(), x, loss, onednn
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)

    def __call__(self) -> None:
        if self.onednn:
            with onednn_allowed():
                self._step()
        else:
            self._step()

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model(self.x)).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def resnet(density: float, layers: int) -> dict[str, Step]:
    """All convolutions but the first are sparse; batches of 128 images."""
    dense = resnet18()
    x, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, labels)

    sparse = st.convert.sparsify(copy.deepcopy(dense), {"0": None, nn.Conv2d: density})
    check(sparse, x[:8])
    steps = {
        "sparsetrain": Step(sparse, x, loss),
        "dense": Step(copy.deepcopy(dense), x, loss),
        "dense, channels_last": Step(channels_last(dense), channels_last(x), loss),
    }
    if installed("sparseprop"):
        steps["SparseProp"] = Step(sparseprop(st.convert.densify(copy.deepcopy(sparse)), x), x, loss)
    return steps


def channels_last(either: Any) -> Any:
    """A network or its input in that layout."""
    return either.to(memory_format=torch.channels_last)


def sparseprop(model: nn.Module, x: Tensor) -> nn.Module:
    """The network with those convolutions by SparseProp that have zeros, by the faster of its two ways for each."""
    from sparseprop.modules import sparsify_conv2d_auto

    sizes: dict[nn.Module, tuple[int, ...]] = {}
    convolutions = [
        module for module in model.modules() if isinstance(module, nn.Conv2d) and (module.weight == 0).any()
    ]
    hooks = [
        module.register_forward_pre_hook(lambda module, args: sizes.update({module: tuple(args[0].shape)}))
        for module in convolutions
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in sizes:
                setattr(parent, name, sparsify_conv2d_auto(child, sizes[child]))
    return model


def bert(density: float, layers: int) -> dict[str, Step]:
    """All linear layers of an encoder are sparse, attention's too; 16 sequences of 128 tokens of 768 features."""
    layer = nn.TransformerEncoderLayer(768, 12, 3072, dropout=0.0, activation="gelu", batch_first=True)
    dense = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    x, target = torch.randn(16, 128, 768), torch.randn(16, 128, 768)

    def loss(y: Tensor) -> Tensor:
        return (y * target).mean()

    sparse = st.convert.sparsify(copy.deepcopy(dense), density, "uniform")
    check(sparse, x[:2])
    return {
        "sparsetrain": Step(sparse, x, loss),
        "dense": Step(copy.deepcopy(dense), x, loss, onednn=False),
        "dense, oneDNN": Step(dense, x, loss),
    }


def check(sparse: nn.Module, x: Tensor) -> None:
    """The sparse network computes what its dense copy does."""
    with torch.no_grad():
        torch.testing.assert_close(sparse.eval()(x), st.convert.dense_copy(sparse).eval()(x), rtol=1e-3, atol=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["resnet", "bert"], help="resnet, bert, or both")
    parser.add_argument("--densities", nargs="*", type=float, default=[0.05, 0.02])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4, help="of the encoder; BERT-base has 12 of the same kind")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for network in args.networks:
        for density in args.densities:
            torch.manual_seed(0)
            steps = {"resnet": resnet, "bert": bert}[network](density, args.layers)
            print(f"{network}, density {density:g}:", report(steps, args.rounds), flush=True)


def report(steps: dict[str, Step], rounds: int) -> str:
    times = measure(steps, rounds, random.Random(0), warmup=1)
    first = next(iter(times.values()))
    return ", ".join(
        f"{name} {1e3 * statistics.median(run):.0f} ms ({ratio(run, first):.2f})" for name, run in times.items()
    )


if __name__ == "__main__":
    main()
