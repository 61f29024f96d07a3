"""How numba makes machine code of stages and of entries: once, where Python calls it.

numba by itself optimises what each function holds, twice, makes machine code of it, and does all of that again in every
function that it is linked into. Of a stage, which only compiled functions call, the optimised code is enough, without
machine code; and code that counts no references needs no passes that make ready for leaving such counts out.

All of it hangs on names of numba that are not public: compilation.py asks for it in the versions where it was tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


class _WithoutEnvironments:
    """A code generator that binds no environment: those serve exceptions and objects, of which stages have none."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Nothing: numba would write to the place of a variable that has none before an entry is made."""


@cache
def entry_compiler() -> Any:
    """numba's compiler for functions that Python calls and that count no references."""
    return _compiler("EntryCompiler", _entry_library())


@cache
def stage_compiler() -> Any:
    """numba's compiler for functions that only compiled functions call."""
    return _compiler("StageCompiler", _stage_library())


@contextmanager
def as_stages(context: Any) -> Iterator[None]:
    """What is loaded from a cache meanwhile is taken for stages, of which no machine code is made.

    For whoever holds numba's lock.
    """
    codegen = context.codegen()
    codegen._library_class = _stage_library()
    try:
        yield
    finally:
        del codegen._library_class  # that of the class is there again


@cache
def _entry_library() -> Any:
    from numba.core.codegen import JITCodeLibrary

    def optimize(self: Any) -> None:
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)

    return type("EntryLibrary", (JITCodeLibrary,), {"_optimize_final_module": optimize})


@cache
def _stage_library() -> Any:
    def finalize(self: Any) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def no_address(self: Any, name: str) -> int:
        return 0

    methods = {
        "_finalize_final_module": finalize,
        "get_pointer_to_function": no_address,
        "serialize_using_object_code": lambda self: self.serialize_using_bitcode(),
        "codegen": property(lambda self: _WithoutEnvironments(self._codegen)),
    }
    return type("StageLibrary", (_entry_library(),), methods)


def _compiler(name: str, library: Any) -> Any:
    import numba.core.compiler

    base: Any = numba.core.compiler.Compiler

    def define_pipelines(self: Any) -> Any:
        state = self.state
        state.library = library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return base.define_pipelines(self)

    return type(name, (base,), {"define_pipelines": define_pipelines})
