"""Private names of other packages that a source uses."""

import ast
from collections.abc import Iterator
from functools import cache

import torch
from torch import nn
from torch.nn.utils import prune

PACKAGES = {"torch", "numba", "numpy", "scipy", "click", "safetensors", "transformers", "lightning", "accelerate"}
MODULES = {"torch", "numba", "np", "nn", "functional", "forward_ad", "dist", "Tensor", "DistributedDataParallel"}
PRIVATE_MODULES = ("numba.core", "numba.np")


def private_names(tree: ast.AST) -> Iterator[str]:
    """Private names of others: of modules by their path, of objects as an attribute of that name."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            path = node.module.split(".")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if path[0] in PACKAGES:
                yield from (each for each in names if _private_path(each))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (
                each.value for each in node.args if isinstance(each, ast.Constant) and _private_path(each.value)
            )
        elif isinstance(node, ast.Attribute):
            path = _path(node)
            if path and path[0] in MODULES:
                # of torch._C._functorch.unwrap the whole, unless the path goes on
                if id(node) not in inner and _private_path(".".join(path)):
                    yield ".".join(path)
            elif _private(node.attr) and node.attr in of_objects():
                yield node.attr
        elif isinstance(node, ast.FunctionDef) and _private(node.name) and node.name in of_methods():
            yield node.name
        elif isinstance(node, ast.Constant) and node.value in ("_metadata", "_tensor_name"):
            yield str(node.value)


def _path(node: ast.AST) -> list[str]:
    """``torch._C.f`` as a list of its names; empty for an attribute of something else."""
    if isinstance(node, ast.Attribute):
        before = _path(node.value)
        return [*before, node.attr] if before else []
    return [node.id] if isinstance(node, ast.Name) else []


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _private_path(path: str) -> bool:
    return any(map(_private, path.split("."))) or path.startswith(PRIVATE_MODULES)


@cache
def of_objects() -> frozenset[str]:
    """Private names that tensors, modules, optimizers and hooks of torch have."""
    hook = next(iter(prune.identity(nn.Linear(1, 1), "weight")._forward_pre_hooks.values()))
    leaf = torch.zeros(1, requires_grad=True)
    things = (
        leaf, leaf.sum().grad_fn, leaf.untyped_storage(), nn.Linear(1, 1), nn.Embedding(1, 1), nn.Conv2d(1, 1, 1),
        nn.MultiheadAttention(2, 1), torch.optim.Adam([leaf]), nn.Linear(1, 1).state_dict(), hook,
    )  # fmt: skip
    return frozenset(
        name for thing in things for name in (*dir(thing), *getattr(thing, "__dict__", ())) if _private(name)
    )


@cache
def of_methods() -> frozenset[str]:
    """Private methods of modules and optimizers, which a class of ours extends by one of the name."""
    return frozenset(name for kind in (nn.Module, torch.optim.Adam) for name in dir(kind) if _private(name))
