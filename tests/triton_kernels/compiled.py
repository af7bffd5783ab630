"""Every kernel compiles for CUDA, as its functions launch it: no device is needed for that."""

import sys
from typing import Any

import pytest
import sparsetrain_triton as kernels
import torch
import triton
from sparsetrain_triton import rows
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

AMPERE, HOPPER = 80, 90
WORDS = {
    torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32",
    torch.int64: "i64",
}  # fmt: skip
MODULES = ["dense_rows", "spmm", "sddmm", "rows.segments", "rows.tiles"]
OPTIONS = {"num_warps", "num_stages"}


def word(argument: Any) -> str:
    """The type of an argument in Triton's words, as its launcher finds it."""
    if isinstance(argument, Tensor):
        return "*" + WORDS[argument.dtype]
    if isinstance(argument, int):
        return "i32" if abs(argument) < 2**31 else "i64"
    return "fp32"


def is_constant(parameter: Any, argument: Any) -> bool:
    """What the launcher makes a constant: None, and 1 unless it is told not to."""
    one = isinstance(argument, int) and argument == 1
    return argument is None or (one and not parameter.do_not_specialize)


class Compiler:
    """What takes the place of launching: it compiles."""

    def __init__(self) -> None:
        self.capability, self.compiled = HOPPER, 0

    def __call__(self, kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
        assert programs > 0
        given = {name: value for name, value in options.items() if name not in OPTIONS}
        assert [*kernel.arg_names[: len(arguments)], *given] == kernel.arg_names
        named = zip(kernel.params, arguments, strict=False)
        constants = {each.name: argument for each, argument in named if is_constant(each, argument)} | given
        named = zip(kernel.arg_names, [*arguments, *given.values()], strict=True)
        signature = {name: "constexpr" if name in constants else word(argument) for name, argument in named}
        aligned = {(place,): [["tt.divisibility", 16]] for place, kind in enumerate(signature.values()) if "*" in kind}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned)
        chosen = {name: options[name] for name in OPTIONS & options.keys()} | {"enable_fp_fusion": True}
        compiled = triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=chosen)
        assert compiled.asm["cubin"]
        self.compiled += 1


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler()
    for module in MODULES:
        # a function may have the name of its module
        monkeypatch.setattr(sys.modules[f"sparsetrain_triton.{module}"], "launch", compiler)
    return compiler


@pytest.mark.parametrize(
    ("dtype", "values", "index", "capability"),
    [
        (torch.float32, torch.float32, torch.int32, AMPERE),
        (torch.bfloat16, torch.float32, torch.int32, HOPPER),
        (torch.float16, torch.float32, torch.int64, HOPPER),
        (torch.float64, torch.float64, torch.int64, HOPPER),
    ],
)
def test_products(
    compiler: Compiler, dtype: torch.dtype, values: torch.dtype, index: torch.dtype, capability: int
) -> None:
    compiler.capability = capability
    crow, col, perm = torch.zeros(9, dtype=index), torch.zeros(64, dtype=index), torch.zeros(64, dtype=index)
    x, y, out = torch.zeros(8, 8, dtype=dtype), torch.zeros(8, 8, dtype=dtype), torch.zeros(64, dtype=values)
    kernels.expand(crow, col, out, 0, 8, y)
    kernels.gather(crow, col, y, 0, 8, out)
    kernels.spmm(crow, col, out, x, y, out[:8])
    kernels.spmm(crow, col, out, x, y, None, perm)
    kernels.sddmm(crow, col, x, y, out)
    assert compiler.compiled == 5


@pytest.mark.parametrize("dim", [1, 1000])
@pytest.mark.parametrize("full", [False, True])
def test_row_steps(compiler: Compiler, dim: int, full: bool) -> None:
    """With everything that is optional, and with nothing of it."""
    ids = torch.arange(4)
    table, counts, sums = torch.zeros(4, dim), torch.zeros(4, dtype=torch.int32), torch.zeros(4)
    l1 = table if full else 0.0
    kept, counted = (table, counts) if full else (None, None)
    s = rows.segments(ids, table, ids if full else None)
    numbers: dict[str, Any] = {"dim": dim, "lr": 0.1, "weight_decay": 0.1, "scale": 1.0}
    adam = {"step": 1, "betas": (0.9, 0.99), "eps": 0.1, "decoupled": full}
    rows.adam(s, table, table, table, kept, counted, l1, **adam, **numbers)
    rows.sgd(s, table, kept, counted, l1, momentum=0.9, dampening=0.1, nesterov=full, **numbers)
    rows.adagrad(s, table, sums if full else table, l1, eps=0.1, **numbers)
    rows.rmsprop(s, table, table, kept, kept, counted, l1, alpha=0.9, eps=0.1, momentum=0.9, **numbers)
    rows.idle_adam(ids, ids, torch.zeros(3, 5), table, table, table, kept, dim, 0.1)
    rows.idle_linear(ids, ids, torch.zeros(3, 5, dtype=torch.float64), table, kept, kept, kept, dim)
    assert compiler.compiled == 7
