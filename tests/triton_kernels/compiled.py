"""Every kernel compiles for CUDA, as its functions launch it: no device is needed for that."""

import sys
from typing import Any

import pytest
import sparsetrain_triton as kernels
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

AMPERE, HOPPER = 80, 90
WORDS = {
    torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32",
    torch.int64: "i64",
}  # fmt: skip
MODULES = ["dense_rows", "spmm", "sddmm"]
OPTIONS = {"num_warps", "num_stages"}


def word(argument: Any) -> str:
    """The type of an argument in Triton's words, as its launcher finds it."""
    if isinstance(argument, Tensor):
        return "*" + WORDS[argument.dtype]
    if isinstance(argument, int):
        return "i32" if abs(argument) < 2**31 else "i64"
    return "fp32" if isinstance(argument, float) else "constexpr"


class Compiler:
    """What takes the place of launching: it compiles."""

    def __init__(self) -> None:
        self.capability, self.compiled = HOPPER, 0

    def __call__(self, kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
        assert programs > 0
        constants = {name: value for name, value in options.items() if name not in OPTIONS}
        named = dict(zip(kernel.arg_names, arguments, strict=False))
        assert (len(named), [*named, *constants]) == (len(arguments), kernel.arg_names)
        signature = {name: word(argument) for name, argument in named.items()} | dict.fromkeys(constants, "constexpr")
        constants |= {name: None for name, argument in named.items() if argument is None}
        places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=kernel, signature=signature, constexprs=places)
        chosen = {name: options[name] for name in OPTIONS & options.keys()} | {"enable_fp_fusion": True}
        assert triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=chosen).asm["cubin"]
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
