"""Why a weight of a model is dense."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from ..dtypes import FLOATS, HALVES
from ..edges.module import EdgeModule
from ..nn import LookupTable, MaskedLinear, SparseDeltaLinear
from ..nn.attention_parts import extras
from ..nn.sparse_convolution import CONVOLUTIONS
from .held_weights import Held
from .kinds import beside_weight, is_pruned, is_replaceable
from .swap import identity, kind_of, owners_of
from .transposed import is_transposed

KINDS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((LookupTable,), "table: each step reads and trains the rows it uses"),
    ((nn.Embedding, nn.EmbeddingBag), "table: see nn.LookupTable"),
    ((nn.RNNBase, nn.RNNCellBase), "torch's recurrent kernels read it themselves"),
    ((nn.Linear,), "a subclass of nn.Linear"),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "a transposed convolution, without a sparse form"),
    *(((kind,), f"a subclass of nn.{kind.__name__}") for kind in CONVOLUTIONS),
)
NO_EDGES = "no edges: it gives its bias alone"


class Reasons:
    """What is to be said of the weights of one model.

    Args:
        model: which has them.
        given: why layers were left as they are, where somebody decided that.
    """

    def __init__(self, model: nn.Module, given: Mapping[nn.Module, str]) -> None:
        self._given = given
        self._owners = owners_of(model)
        self._names = {module: name for name, module in model.named_modules()}
        modules = list(self._names)
        self._frozen = {module.linear for module in modules if isinstance(module, SparseDeltaLinear)}
        attention = [module for module in modules if isinstance(module, nn.MultiheadAttention)]
        self._attention = {child: module for module in attention for child in (module, *module.children())}

    def origin(self, layer: Any) -> str:
        """The name of the layer whose values another one reads, computed ones among them."""
        computed = isinstance(layer, EdgeModule) and layer.reads_transposed and not layer._apart
        return self._names.get(layer.origin, "") if computed else ""

    def note(self, held: Held) -> str:
        """Why a weight is dense; of one that is not, what else is to be known."""
        module: Any = held.module
        if isinstance(module, EdgeModule):
            waits = "edges are placeholders until a state is loaded" if module.awaits_edges else ""
            return waits or ("" if held.edges else NO_EDGES)
        if isinstance(module, MaskedLinear):
            return "a dense weight under a mask" + (" that has no data yet" if module.mask.is_meta else "")
        if module in self._frozen:
            return "frozen, beside the edges of SparseDeltaLinear"
        if module in self._attention:
            plain = kind_of(self._attention[module]) is nn.MultiheadAttention
            return self._of_attention(held) if plain else "a subclass of nn.MultiheadAttention"
        if is_transposed(module):
            return self._given.get(module, "") or "not converted"
        if is_replaceable(module):
            return self._of_replaceable(held)
        known = next((reason for kinds, reason in KINDS if isinstance(module, kinds)), "")
        return known or f"there is no sparse form of {held.kind}"

    def _of_replaceable(self, held: Held) -> str:
        """What keeps sparsify from replacing it, or what somebody decided."""
        given = self._given.get(held.module, "")
        return "; ".join(filter(None, [given, self._obstacle(held)])) or "not converted"

    def _of_attention(self, held: Held) -> str:
        more = extras(held.module)
        obstacle = "parametrized" if "parametrizations" in more else f"has {', '.join(sorted(more))}" if more else ""
        pruned = "pruned by torch.nn.utils.prune" if held.masks else ""
        return "; ".join(filter(None, [self._given.get(held.module, ""), obstacle or pruned])) or "not converted"

    def _obstacle(self, held: Held) -> str:
        more = beside_weight(held.module)
        if "parametrizations" in more:
            return "parametrized"
        if more:
            return f"has {', '.join(sorted(more))}"
        if any(map(is_lazy, held.tensors)):
            return "lazy: it has no weight yet"
        tied = [name for name in self._owners[identity(held.tensors[0])] if name.rpartition(".")[0] != held.name]
        if tied:
            return f"tied to {tied[0]}"
        if held.tensors[0].dtype not in (*FLOATS, *HALVES):
            return f"weights in {held.tensors[0].dtype}"
        return "pruned by torch.nn.utils.prune" if is_pruned(held.module) else ""
