"""Models of transformers that were made sparse and saved: their class alone makes dense layers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from ...convert import sparsify
from ...edges.module import EdgeModule
from ...edges.stored_edges import KEY, unpacked
from ...structure.topology import Topology

WHERE = "trainers.transformers.from_pretrained"
OF_FILES = "cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token"


def from_pretrained(kind: Any, name: Any, *arguments: Any, **options: Any) -> Any:
    """``kind.from_pretrained(name)`` of a model that was made sparse by convert.sparsify and saved by save_pretrained.

    The layers whose edges are in the files are made sparse, with these edges; all others are as the class makes them.
    Tied weights, data types, device maps and reports are transformers' own. A class that calls sparsify in its
    ``__init__`` needs none of this, its own from_pretrained works.

    Args:
        kind: the class of the model, such as BertForSequenceClassification. It may have another head than the saved
            one.
        name: a folder, or a name on the hub; with safetensors files.
        arguments, options: as ``kind.from_pretrained`` takes them.

    Returns:
        The model, of this class.

    Raises:
        TypeError: it is no class of models. OSError: no safetensors file there. ValueError: no layers over edges in
            the files, or the class has no nn.Linear of the same shape in their places.

    Example:
        >>> import tempfile, transformers
        >>> from sparsetrain import convert
        >>> sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> config = transformers.BertConfig(**sizes, intermediate_size=32, vocab_size=9)
        >>> model = convert.sparsify(transformers.BertModel(config), {"encoder.*": 0.1})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     same = from_pretrained(transformers.BertModel, folder)
        >>> same.encoder.layer[0].output.dense
        SparseLinear(in_features=32, out_features=16, nnz=51, density=0.09961, bias=True)
    """
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise TypeError(f"{WHERE}: expected a class of models such as BertModel, got {kind!r}.")
    edges = _edges(_files(name, {key: options[key] for key in OF_FILES if key in options}))
    if not edges:
        raise ValueError(
            f"{WHERE}: expected layers over edges in {name}, found none. Use {kind.__name__}.from_pretrained."
        )

    def made_sparse(model: Any, config: Any, *rest: Any, **more: Any) -> None:
        kind.__init__(model, config, *rest, **more)
        modules = dict(model.named_modules())
        places = {_place(modules, model.base_model_prefix, layer): topology for layer, topology in edges.items()}
        if not any(places):
            raise ValueError(f"{WHERE}: expected layers named as in {name}, {kind.__name__} has none of {list(edges)}.")
        masks = {k: mask for k, mask in places.items() if k and not isinstance(modules[k], EdgeModule)}
        if masks:
            sparsify(model, masks=masks)
        _keep_inner_values(model)

    sparse: Any = type(kind.__name__, (kind,), {"__init__": made_sparse, "__module__": kind.__module__})
    model = sparse.from_pretrained(name, *arguments, **options)
    (model[0] if isinstance(model, tuple) else model).__class__ = kind
    return model


def _keep_inner_values(model: Any) -> None:
    """GPT-2 draws weights of layers from the modules that they are in, after loading and as ``layer.weight``."""
    for module in model.modules():
        within = any(isinstance(child, EdgeModule) for child in module.children())
        if within and not [*module.parameters(recurse=False)]:
            module._is_hf_initialized = True


def _place(modules: Mapping[str, Any], base: str, layer: str) -> str | None:
    """The name of a saved layer in a model, which may have the saved one as its base or be the base of it."""
    names = (layer, f"{base}.{layer}", layer.removeprefix(f"{base}."))
    return next((name for name in names if name in modules), None)  # None: of a head that this class has not


def _files(name: Any, options: Mapping[str, Any]) -> list[str]:
    """The safetensors files of a model."""
    found = cached_file(name, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **options)
    if found is not None:
        return [found]
    index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **options)
    if index is None:
        raise OSError(f"{WHERE}: expected {SAFE_WEIGHTS_NAME} in {name}, found none.")
    parts = set(json.loads(Path(index).read_text())["weight_map"].values())
    return [str(cached_file(name, part, **options)) for part in sorted(parts)]


def _edges(files: list[str]) -> dict[str, Topology]:
    """The topology of each layer in the files; nothing else is read."""
    edges = {}
    for file in files:
        with safe_open(file, "pt") as content:
            for key in content.keys():  # noqa: SIM118 - it is no dict
                if key.endswith(f".{KEY}"):
                    edges[key.removesuffix(f".{KEY}")] = unpacked(content.get_tensor(key)).topology()
    return edges
