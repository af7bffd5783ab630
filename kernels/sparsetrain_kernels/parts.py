"""Functions that are compiled within kernels, and not by themselves: half of a kernel's compilation would be machine code
for each function that it calls, which nobody runs."""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _Nowhere:
    """Where numba writes the address of a function's constants of Python: a part has none, and no place in memory."""

    def set_env(self, name: str, environment: Any) -> None:
        pass


class _Library(JITCodeLibrary):  # type: ignore[misc]
    """LLVM's intermediate code of a part: it is optimized, and becomes machine code, in the library that links it."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    @property
    def codegen(self) -> Any:
        return _Nowhere()


class PartCompiler(Compiler):  # type: ignore[misc]
    def define_pipelines(self) -> Any:
        codegen = self.state.targetctx.codegen()
        self.state.library = _Library(codegen, self.state.func_id.func_qualname)
        return super().define_pipelines()


def only_in_kernels(dispatcher: Any) -> Any:
    """Have Python's calls of a part fail: there is no machine code to run."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{dispatcher.__name__}() is a part of kernels, and can't be called from Python.")

    dispatcher._compile_for_args = refuse
    dispatcher._insert = lambda *_: None  # into what Python's calls find
    return dispatcher
