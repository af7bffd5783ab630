"""Edges where the gradient of a loss is largest, found without a dense gradient."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ops.largest_products import largest_products
from ..structure.csr import from_positions
from ..structure.topology import Topology


class Use(NamedTuple):
    """One call of a linear layer: what went in, and the gradient of what came out. Samples are rows."""

    x: Tensor
    dy: Tensor


def by_gradient(
    where: str, model: nn.Module, closure: Callable[[], Tensor], counts: Mapping[nn.Module, int]
) -> dict[nn.Module, Topology]:
    """For each layer, that many edges whose weights have the largest gradients. The gradient of a weight is dY' X; rows
    of it are made block by block, from the inputs and the output gradients of all calls of the layer."""
    uses: dict[nn.Module, list[Use]] = defaultdict(list)
    with _nothing_trains(model), _recorded(where, counts, uses), torch.enable_grad():
        loss = closure()
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise ValueError(
                f"{where}: expected closure to return a loss, one number that depends on the layers, got "
                f"{loss if not isinstance(loss, Tensor) or loss.numel() == 1 else tuple(loss.shape)}."
            )
        loss.backward()  # type: ignore[no-untyped-call]
    names = {module: name for name, module in model.named_modules()}
    for layer, count in counts.items():
        if count and not uses[layer]:
            raise ValueError(
                f"{where}: expected a loss that depends on every layer, {names[layer]!r} was not called for it. Leave "
                f"it as it is with skip=[{names[layer]!r}]."
            )
        if not all(bool(part.isfinite().all()) for use in uses[layer] for part in use):
            raise ValueError(f"{where}: expected finite gradients, those of {names[layer]!r} have NaN or infinities.")
    return {layer: _largest(layer, uses[layer], count) for layer, count in counts.items()}


def _largest(layer: Any, uses: list[Use], count: int) -> Topology:
    shape = (layer.out_features, layer.in_features)
    x = torch.cat([layer.weight.new_empty(0, shape[1]), *(use.x.reshape(-1, shape[1]) for use in uses)])
    dy = torch.cat([layer.weight.new_empty(0, shape[0]), *(use.dy.reshape(-1, shape[0]) for use in uses)])
    nothing = Topology._trusted(*from_positions(torch.empty(0, dtype=torch.int64, device=x.device), shape), shape)
    kept = torch.empty(0, dtype=torch.bool, device=x.device)
    positions = largest_products([(dy.t(), x.t())], count, nothing, kept)
    return Topology._trusted(*from_positions(positions, shape), shape)


@contextmanager
def _recorded(where: str, layers: Mapping[nn.Module, Any], uses: dict[nn.Module, list[Use]]) -> Iterator[None]:
    """Calls of the layers, and the gradients that come back, are noted inside the block."""

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], y: Tensor) -> Tensor:
        x = (*inputs, *named.values())[0].detach()
        version = x._version
        # no longer a leaf, which what follows could not change in place, and sure to ask for a gradient
        y = y + torch.zeros((), dtype=y.dtype, device=y.device, requires_grad=True)

        def came(dy: Tensor) -> None:
            if x._version != version:
                raise RuntimeError(
                    f"{where}: the input of {type(layer).__name__}({getattr(layer, 'in_features', '')}, ...) was "
                    "changed in place after the layer read it, so that its gradient can't be found."
                )
            uses[layer].append(Use(x, dy.detach()))

        if y.requires_grad:
            y.register_hook(came)  # type: ignore[no-untyped-call]
        return y

    handles = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _nothing_trains(model: nn.Module) -> Iterator[None]:
    """No parameter gets a gradient inside the block."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
