"""The private hooks of torch and numba that we rely on: each with what it is for, and a test that names it when a release
takes it away. The sources are read, so that none is used that is not listed here, and none listed that is not used."""

import ast
import importlib
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from private_names import private_names
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parent.parent
SOURCES = [*(ROOT / "sparsetrain").rglob("*.py"), *(ROOT / "kernels" / "sparsetrain_kernels").rglob("*.py")]

Check = Callable[[], Any]


# ---- what is done with them ------------------------------------------------------------------------------------------


def forward_mode() -> None:
    assert forward_ad._current_level < 0
    with forward_ad.dual_level():
        assert forward_ad._current_level >= 0
    with forward_ad._set_fwd_grad_enabled(False):
        pass


def transforms() -> None:
    functorch = torch._C._functorch
    seen: list[Any] = []

    def look(x: Tensor) -> Tensor:
        seen.extend([torch._C._are_functorch_transforms_active(), functorch.is_functorch_wrapped_tensor(x)])
        seen.append(functorch.get_unwrapped(x).shape)
        pauses = importlib.import_module("torch._functorch.pyfunctorch").temporarily_clear_interpreter_stack
        with pauses():
            seen.append(torch._C._are_functorch_transforms_active())
        return x.sum()

    kept: list[Tensor] = []
    torch.func.grad(lambda x: (kept.append(x), look(x))[1])(torch.ones(3))
    assert seen == [True, True, (3,), False]
    assert not torch._C._are_functorch_transforms_active()
    assert not functorch.is_functorch_wrapped_tensor(functorch.unwrap_if_dead(kept[0]))
    assert not functorch.is_legacy_batchedtensor(torch.ones(3))


def modes() -> None:
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    keys, fake = torch._C._TorchDispatchModeKey, importlib.import_module("torch._subclasses.fake_tensor")
    assert torch._C._len_torch_dispatch_stack() == 0
    with Mode():
        assert torch._C._len_torch_dispatch_stack() == 1
    assert torch._C._get_dispatch_mode(keys.PROXY) is torch._C._get_dispatch_mode(keys.FAKE) is None
    with fake.FakeTensorMode() as mode:
        x = torch.ones(2)
        assert isinstance(x, fake.FakeTensor)
        assert torch._C._get_dispatch_mode(keys.FAKE) is not None
        assert torch._guards.detect_fake_mode([x]) is mode
    stack = torch.overrides._get_current_function_mode_stack
    before = len(stack())  # type: ignore[no-untyped-call]
    with torch.device("cpu"):
        assert len(stack()) == before + 1  # type: ignore[no-untyped-call]
        assert mode.allow_non_fake_inputs is False
        with fake.unset_fake_temporarily():
            assert not isinstance(torch.ones(2), fake.FakeTensor)


def jit_tracing() -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(torch._C._get_tracing_state())
        return x + 1

    look(torch.ones(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)  # since torch 2.15
        torch.jit.trace(look, torch.ones(1))
    assert seen[0] is None
    assert any(state is not None for state in seen)


def backward_passes() -> None:
    x = torch.ones(2, requires_grad=True)
    node = torch.autograd.graph.get_gradient_edge(x).node
    seen = []
    y = x * 2
    y.register_hook(
        lambda _: seen.append((torch._C._current_graph_task_id(), torch._C._will_engine_execute_node(node)))
    )
    y.sum().backward()
    assert torch._C._current_graph_task_id() == -1
    assert seen[0][0] >= 0
    assert seen[0][1] is True


def tensors() -> None:
    x = torch.ones(3)
    before = x._version
    x.add_(1)
    assert x._version == before + 1
    assert x[1:]._is_view()
    assert not x._is_view()
    assert x.untyped_storage()._cdata == x[1:].untyped_storage()._cdata != torch.ones(3).untyped_storage()._cdata
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.ones(2), (3,), check_invariants=True)
    assert (sparse._nnz(), sparse._indices().tolist(), sparse._values().tolist()) == (2, [[1, 1]], [1.0, 1.0])
    torch._assert_async(torch.tensor(True), "a message")
    assert "dltensor" in str(torch._C._to_dlpack_versioned(x))


def subclasses() -> None:
    class Kind(Tensor):
        __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    class Wrapper(Tensor):
        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
            raise NotImplementedError

    made = torch.Tensor._make_subclass(Kind, torch.ones(2), True)
    assert type(made) is Kind
    assert made.requires_grad
    assert type(made + 1) is Tensor
    assert torch.Tensor._make_wrapper_subclass(Wrapper, (2, 3), dtype=torch.float64).shape == (2, 3)
    with torch._C.DisableTorchFunctionSubclass():
        assert made.shape == (2,)


def trees() -> None:
    pytree = importlib.import_module("torch.utils._pytree")
    leaves, spec = pytree.tree_flatten({"a": [1, 2], "b": (3,)})
    assert leaves == pytree.tree_leaves(pytree.tree_unflatten(leaves, spec)) == [1, 2, 3]
    assert pytree.tree_map_only(int, lambda k: k + 1, {"a": [1, "x"]}) == {"a": [2, "x"]}


def modules() -> None:
    layer = nn.Linear(2, 3)
    layer.register_buffer("more", torch.ones(1))
    parent = nn.Sequential(layer)
    assert (list(layer._parameters), list(layer._buffers), list(parent._modules)) == (
        ["weight", "bias"],
        ["more"],
        ["0"],
    )
    register = {
        "_forward_hooks": layer.register_forward_hook, "_forward_pre_hooks": layer.register_forward_pre_hook,
        "_backward_hooks": layer.register_full_backward_hook, "_backward_pre_hooks": layer.register_full_backward_pre_hook,
        "_load_state_dict_pre_hooks": layer.register_load_state_dict_pre_hook,
        "_load_state_dict_post_hooks": layer.register_load_state_dict_post_hook,
        "_state_dict_hooks": layer.register_state_dict_post_hook, "_state_dict_pre_hooks": layer.register_state_dict_pre_hook,
    }  # fmt: skip
    for name, hook in register.items():
        before = len(getattr(layer, name))
        hook(lambda *_: None)
        assert len(getattr(layer, name)) == before + 1, name
    assert "_metadata" in vars(nn.Linear(2, 3).state_dict())
    pruned = prune.identity(nn.Linear(2, 3), "weight")
    assert [hook._tensor_name for hook in pruned._forward_pre_hooks.values()] == ["weight"]
    assert nn.MultiheadAttention(4, 2)._qkv_same_embed_dim
    assert not nn.MultiheadAttention(4, 2, kdim=3)._qkv_same_embed_dim


def overridden_methods() -> None:
    called = []

    class Layer(nn.Linear):
        def _apply(self, *args: Any, **options: Any) -> Any:
            called.append("_apply")
            return super()._apply(*args, **options)  # type: ignore[no-untyped-call]

        def _save_to_state_dict(self, *args: Any) -> None:
            called.append("_save_to_state_dict")
            super()._save_to_state_dict(*args)

        def _load_from_state_dict(self, *args: Any) -> None:
            called.append("_load_from_state_dict")
            super()._load_from_state_dict(*args)

    layer = nn.Sequential(Layer(2, 3))
    layer.double()
    layer.load_state_dict(layer.state_dict())
    assert called == ["_apply", "_save_to_state_dict", "_load_from_state_dict"]


def optimizers() -> None:
    for kind in (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adam):
        called = []

        class Kind(kind):  # type: ignore[valid-type, misc]
            def _init_group(self, group: Any, *lists: Any, called: list[Any] = called) -> Any:
                called.append(group)
                return super()._init_group(group, *lists)

        p = nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        optimizer = Kind([p], lr=0.1)
        optimizer.step()
        assert len(called) == 1, kind
        assert not optimizer._optimizer_load_state_dict_pre_hooks
        assert not optimizer._optimizer_load_state_dict_post_hooks
        optimizer.register_load_state_dict_pre_hook(lambda *_: None)
        optimizer.register_load_state_dict_post_hook(lambda *_: None)
        assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1
        assert len(optimizer._optimizer_load_state_dict_post_hooks) == 1


def data_parallel() -> None:
    method = nn.parallel.DistributedDataParallel._build_params_for_reducer
    assert method.__code__.co_argcount == 1


def communication_hooks() -> None:
    assert callable(importlib.import_module("torch._C._distributed_c10d")._register_comm_hook)
    source = inspect.getsource(nn.parallel.DistributedDataParallel.register_comm_hook)
    assert "self._comm_hooks.append" in source


def operators() -> None:
    assert torch.ops.aten._embedding_bag_per_sample_weights_backward.default.name()
    if torch.backends.mkldnn.is_available():
        assert torch._C._get_mkldnn_enabled()
        with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
            assert not torch._C._get_mkldnn_enabled()
        x, weight = torch.randn(4, 3), torch.randn(2, 3)
        y = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        torch.testing.assert_close(y, x @ weight.t())
    g = torch.tensor([[2.0]])
    torch.testing.assert_close(torch._weight_norm(torch.tensor([[3.0, 4.0]]), g, 0), torch.tensor([[1.2, 1.6]]))


def compiler() -> None:
    assert callable(importlib.import_module("torch._dynamo").graph_break)


def numbas_cache() -> None:
    caching = importlib.import_module("numba.core.caching")
    for name in ("_load_index", "_load_data", "_save_data", "_data_path", "_dump", "_open_for_write", "load", "save"):
        assert callable(getattr(caching.IndexDataCacheFile, name, None)), name
    assert caching.FunctionCache.__mro__
    assert caching.NullCache()
    numba = importlib.import_module("numba")
    if not numba.config.DISABLE_JIT:
        assert hasattr(numba.njit(lambda: 1), "_cache")


def numbas_code() -> None:
    cgutils = importlib.import_module("numba.core.cgutils")
    assert callable(cgutils.for_range)


def numbas_parts() -> None:
    """A function without machine code of its own is linked into the kernel that calls it."""
    jit = importlib.import_module("sparsetrain_kernels.jit")

    @jit.part  # type: ignore[untyped-decorator]
    def double(x: int) -> int:
        return 2 * x

    @jit.kernel  # type: ignore[untyped-decorator]
    def twice_doubled(x: int) -> int:
        return double(double(x))  # type: ignore[no-any-return]

    assert twice_doubled(3) == 12
    errors = importlib.import_module("numba.core.errors")
    with pytest.raises(TypeError, match="is a part of kernels"):
        double(3)
    assert issubclass(errors.TypingError, Exception)


def numbas_threads() -> None:
    try:
        assert importlib.import_module("numba.np.ufunc.omppool").__file__
    except ImportError:
        pytest.skip("this numba has no OpenMP")


# the name, as the sources have it, and what tests the behaviour that we rely on
HOOKS: dict[str, Check] = {
    # forward mode and torch.func: who is differentiating, and tensors without what transforms wrap around them
    "forward_ad._current_level": forward_mode,
    "forward_ad._set_fwd_grad_enabled": forward_mode,
    "torch._C._are_functorch_transforms_active": transforms,
    "torch._C._functorch": transforms,
    "torch._C._functorch.get_unwrapped": transforms,
    "torch._C._functorch.is_functorch_wrapped_tensor": transforms,
    "torch._C._functorch.is_legacy_batchedtensor": transforms,
    "torch._C._functorch.unwrap_if_dead": transforms,
    "torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack": transforms,
    # modes that watch, fake tensors, tracing
    "torch._C._TorchDispatchModeKey": modes,
    "torch.overrides._get_current_function_mode_stack": modes,
    "torch._C._TorchDispatchModeKey.PROXY": modes,
    "torch._C._get_dispatch_mode": modes,
    "torch._C._len_torch_dispatch_stack": modes,
    "torch._guards.detect_fake_mode": modes,
    "torch._subclasses.fake_tensor.FakeTensor": modes,
    "torch._subclasses.fake_tensor.unset_fake_temporarily": modes,
    "torch._C._get_tracing_state": jit_tracing,
    "torch._dynamo.graph_break": compiler,
    # which backward pass runs, and whether it reaches a leaf
    "torch._C._current_graph_task_id": backward_passes,
    "torch._C._will_engine_execute_node": backward_passes,
    # tensors: versions, memory, COO without coalescing, subclasses
    "_cdata": tensors,
    "_indices": tensors,
    "_is_view": tensors,
    "_nnz": tensors,
    "_values": tensors,
    "_version": tensors,
    "torch._C": tensors,
    "torch._C._to_dlpack_versioned": tensors,
    "torch._assert_async": tensors,
    "torch.Tensor._make_subclass": subclasses,
    "torch.Tensor._make_wrapper_subclass": subclasses,
    "torch._C.DisableTorchFunctionSubclass": subclasses,
    "torch._C._disabled_torch_function_impl": subclasses,
    "torch.utils._pytree": trees,
    "torch.utils._pytree.tree_flatten": trees,
    "torch.utils._pytree.tree_leaves": trees,
    "torch.utils._pytree.tree_unflatten": trees,
    # modules and optimizers: what they hold, and methods that we extend
    "_backward_hooks": modules,
    "_backward_pre_hooks": modules,
    "_buffers": modules,
    "_forward_hooks": modules,
    "_forward_pre_hooks": modules,
    "_load_state_dict_post_hooks": modules,
    "_load_state_dict_pre_hooks": modules,
    "_metadata": modules,
    "_modules": modules,
    "_parameters": modules,
    "_qkv_same_embed_dim": modules,
    "_state_dict_hooks": modules,
    "_state_dict_pre_hooks": modules,
    "_tensor_name": modules,
    "_apply": overridden_methods,
    "_load_from_state_dict": overridden_methods,
    "_save_to_state_dict": overridden_methods,
    "_init_group": optimizers,
    "_optimizer_load_state_dict_post_hooks": optimizers,
    "_optimizer_load_state_dict_pre_hooks": optimizers,
    "DistributedDataParallel._build_params_for_reducer": data_parallel,
    "torch._C._distributed_c10d._register_comm_hook": communication_hooks,
    # operators that torch's own modules call
    "torch._C._get_mkldnn_enabled": operators,
    "torch._weight_norm": operators,
    "torch.ops.aten._embedding_bag_per_sample_weights_backward": operators,
    "torch.ops.mkldnn._linear_pointwise": operators,
    # numba: files of compiled kernels, LLVM by hand, its threads
    "numba.core.caching.FunctionCache": numbas_cache,
    "numba.core.caching.IndexDataCacheFile": numbas_cache,
    "numba.core.caching.NullCache": numbas_cache,
    "numba.core.cgutils": numbas_code,
    "numba.core.codegen.JITCodeLibrary": numbas_parts,
    "numba.core.compiler.Compiler": numbas_parts,
    "numba.core.errors.TypingError": numbas_parts,
    "numba.np.ufunc.omppool": numbas_threads,
}


@pytest.mark.parametrize("check", dict.fromkeys(HOOKS.values()), ids=lambda check: check.__name__)
def test_it_does_what_we_rely_on(check: Check) -> None:
    check()


def test_what_the_sources_use_is_what_is_listed() -> None:
    used = {name: path for path in SOURCES for name in private_names(ast.parse(path.read_text()))}
    assert len(used) > 50
    unlisted = {name: str(path.relative_to(ROOT)) for name, path in used.items() if name not in HOOKS}
    assert not unlisted, "list them in HOOKS, with a test of what they are used for; or do without"
    assert not HOOKS.keys() - used.keys(), "no source uses these any more"
