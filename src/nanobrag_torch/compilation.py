"""The one place that knows numba: what is compiled, when, and where the machine code is kept.

How to write a compiled function (kernels/cpu/launch.py, c_random.py):

    from nanobrag_torch.compilation import compiled, deferred

    @compiled()                                  # a helper; the options are those of numba.njit
    def _square(x: float) -> float:
        return x * x

    @compiled(fastmath=True)                     # a function that Python calls
    def total(values: Array) -> float:
        result = 0.0
        for value in values:
            result += _square(value)
        return result

    @deferred(plain=range)                       # an object of numba itself, fetched when it is needed
    def prange() -> Any:
        import numba

        return numba.prange

`total(values)` imports numba and compiles at its first call, never before; importing the module costs nothing.

* Write functions at module level. Other compiled or deferred objects are found through the module's globals, so import
  them by name (`from x import helper`; `x.helper` raises TypeError), and pass everything else as an argument.
  Numbers, strings and tuples may be taken from a module by dots: `layout.ROW`.
* A global constant is frozen into the machine code. Numbers, strings, tuples and arrays are part of the cache's key.
* Options not given are those of DEFAULTS: the interpreter lock is released, division follows IEEE, no fastmath, bounds
  unchecked. Without fastmath LLVM contracts no product and sum, so results are the same on every machine.
* Arguments decide the specialisation: pass contiguous arrays of one dtype, or every layout compiles once more.
* `total.without(_square)` is the function with that part left out, for callers who know that they do not need it: what
  is rarely needed costs compile time only where it is. `total.without(WHOLE=False)` leaves out what stands behind
  `if layout.WHOLE and ...`.
* `@compiled(title="sums")` is what the log calls it while it is compiled; the function's name by default.
* Where numba cannot be used, the same Python function runs instead (and `plain` for a deferred object). It is slow:
  callers with another choice ask `available()` first.

Machine code is kept in `cache_folder()`, one folder a function, named by a hash of its bytecode, options and constants
and of everything compiled that it calls, in any file: numba itself notices only changes in the function's own file. No
other setting of numba is touched, and none outlives the definition of one function. The folder may be deleted at any
time; what is damaged in it, or could be another user's, is made again (compiled_files.py).
"""

from __future__ import annotations

import dis
import functools
import gc
import hashlib
import importlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, cast

from nanobrag_torch.compiled_constants import is_plain, with_constants
from nanobrag_torch.compiled_files import keep_checked, say_not_kept, why_untrusted
from nanobrag_torch.compiled_libraries import as_stages, entry_compiler, stage_compiler

P = ParamSpec("P")
R = TypeVar("R")

PACKAGE = "nanobrag_torch"
DEFAULTS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
REDUCED = " without rare parts"
LIGHT_VERSIONS = ("0.68.",)
"""Of numba, whose cache `_load_lightly` knows, and `compiled_libraries` its compiler."""
_LOCK = threading.RLock()
_LOG = logging.getLogger(__name__)


class Availability(NamedTuple):
    """Whether compiled functions can be used, and if not, why."""

    usable: bool
    reason: str


@functools.cache
def available() -> Availability:
    """Whether numba can be imported and compiles here; imports it. The reason is empty when it does."""
    try:
        disabled = _numba_part("config").DISABLE_JIT
    except Exception as failure:  # a broken llvmlite or numpy raises more than ImportError
        return Availability(False, f"numba cannot be imported ({type(failure).__name__}: {failure})")
    if disabled:
        return Availability(False, "NUMBA_DISABLE_JIT is set")
    return Availability(True, "")


class Deferred:
    """Something that compiled code names and that exists only once numba is imported."""

    def __init__(self, factory: FunctionType, plain: Any) -> None:
        self.factory, self.plain = factory, plain
        functools.update_wrapper(self, factory)

    @functools.cached_property
    def resolved(self) -> Any:
        """What compiled code sees in place of this object."""
        return self.factory()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes whenever the definition does."""
        return _digest(_definition(self.factory))

    def __call__(self, *args: Any) -> Any:
        """The same outside compiled code."""
        return self.plain(*args)


class Compiled(Generic[P, R]):
    """A function that numba compiles when it is first called."""

    def __init__(
        self, function: FunctionType, options: dict[str, Any], parts: dict[str, Any] | None = None, title: str = ""
    ) -> None:
        if function.__closure__:
            raise TypeError(f"{function.__qualname__}: compiled functions are written at module level")
        self.function, self.options, self.parts = function, options, parts or {}
        self.title = title or function.__name__
        self._dispatcher: Any = None
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.resolved(*args, **kwargs)
        return result

    @property
    def resolved(self) -> Any:
        """numba's dispatcher; the plain Python function where numba cannot be used."""
        if self._dispatcher is None:
            with _LOCK:
                self._dispatcher = self._dispatcher or _dispatcher(self)
        return self._dispatcher

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes whenever the code, the options or a constant does, here or in anything compiled that it calls."""
        options = [(name, sorted(v) if isinstance(v, set) else v) for name, v in sorted(self.options.items())]
        return _digest([options, *_definition(self.function), *_constants(self.named())])

    def named(self) -> list[tuple[str, Any]]:
        """The global objects that the function's code names, or what stands for them here."""
        return [(name, self.parts.get(name, value)) for name, value in _named(self.function)]

    def without(self, *parts: Compiled[..., Any], **constants: bool) -> Compiled[P, R]:
        """The same function where calls of `parts`, its own or any further down, do nothing.

        constants: what takes the place of constants of modules of these names: branches on them are not compiled.
        It compiles apart from the whole one, and faster; what has no such calls is shared by both.
        """
        known: dict[int, Compiled[..., Any]] = {id(part): nothing for part in parts}
        reduced: Any = _without(self, known, constants)
        return cast(Compiled[P, R], reduced)


def _without(
    kernel: Compiled[..., Any], known: dict[int, Compiled[..., Any]], constants: Mapping[str, bool]
) -> Compiled[..., Any]:
    """known: by identity, what stands for a function."""
    if id(kernel) not in known:
        called = [(name, value) for name, value in kernel.named() if isinstance(value, Compiled)]
        reduced = [(name, value, _without(value, known, constants)) for name, value in called]
        changed: dict[str, Any] = {name: other for name, value, other in reduced if other is not value}
        for name, value in kernel.named():
            chosen = constants.get(name.rpartition(".")[2], value) if "." in name else value
            changed |= {} if chosen is value else {name: chosen}
        parts = {**kernel.parts, **changed}
        title = kernel.title.removesuffix(REDUCED) + REDUCED
        known[id(kernel)] = Compiled(kernel.function, kernel.options, parts, title) if changed else kernel
    return known[id(kernel)]


def compiled(*, title: str = "", **options: Any) -> Callable[[Callable[P, R]], Compiled[P, R]]:
    """Decorator: compile this function at its first call, with numba.njit's options over DEFAULTS."""

    def decorate(function: Callable[P, R]) -> Compiled[P, R]:
        assert isinstance(function, FunctionType)
        return Compiled(function, {**DEFAULTS, **options}, title=title)

    return decorate


def deferred(*, plain: Any) -> Callable[[Callable[[], Any]], Deferred]:
    """Decorator: the factory returns an object for compiled code, say an intrinsic; `plain` stands for it in Python."""

    def decorate(factory: Callable[[], Any]) -> Deferred:
        assert isinstance(factory, FunctionType)
        return Deferred(factory, plain)

    return decorate


@compiled(_nrt=False, no_cfunc_wrapper=True, no_cpython_wrapper=True)
def nothing(*_: Any) -> None:
    """What stands for the parts that `Compiled.without` leaves out."""


@functools.cache
def cache_folder() -> Path | None:
    """Where machine code of this version is kept: NUMBA_CACHE_DIR or the user's cache folder.

    None where it cannot be written, or where others can: what is kept there is run.
    """
    import numba

    try:
        base = Path(_numba_part("config").CACHE_DIR or _user_cache())
        folder = base / PACKAGE / f"{_version()}-numba{numba.__version__}"
        folder.mkdir(parents=True, exist_ok=True)
        reason = why_untrusted(folder)
        if not reason:
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    except RuntimeError:
        reason = "there is no home folder"
    say_not_kept(reason)
    return None


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "source"


def _numba_part(name: str) -> Any:
    return importlib.import_module(f"numba.core.{name}")


def _dispatcher(kernel: Compiled[..., Any]) -> Any:
    if not available().usable:
        _say_once(f"{available().reason}; what it should have compiled runs as plain Python, slowly")
        return kernel.function
    import numba

    _announce_compilation()
    function, folder = _with_resolved_globals(kernel), cache_folder()
    options = kernel.options | _compiler_of(kernel)
    if folder is None:
        return numba.njit(**options)(function)
    # numba decides where a function is cached when it is defined, by these two settings.
    place = folder / f"{kernel.function.__name__}-{kernel.fingerprint[:16]}"
    try:
        with _numba_settings(CACHE_DIR=str(place), CACHE_LOCATOR_CLASSES=""):
            dispatcher = numba.njit(cache=True, **options)(function)
    except (OSError, RuntimeError) as error:  # numba finds no place for a folder: a disk without room
        say_not_kept(" ".join(str(error).split())[:120])
        return numba.njit(**options)(function)
    _load_lightly(dispatcher, _is_stage(kernel))
    keep_checked(dispatcher)
    return dispatcher


def _is_stage(kernel: Compiled[..., Any]) -> bool:
    """Whether only compiled functions can call it."""
    return bool(kernel.options.get("no_cpython_wrapper"))


def _compiler_of(kernel: Compiled[..., Any]) -> dict[str, Any]:
    """The option of numba that names its compiler, where another than its own makes the same in less time."""
    import numba

    if not numba.__version__.startswith(LIGHT_VERSIONS) or kernel.options.get("_nrt", True):
        return {}
    return {"pipeline_class": stage_compiler() if _is_stage(kernel) else entry_compiler()}


def _load_lightly(dispatcher: Any, stage: bool) -> None:
    """Look for machine code in the cache before numba sets up what only compiling needs: half a second of imports.

    Where that finds nothing, and in versions of numba in which it was not tried, numba's own way is taken.
    """
    import numba

    if not numba.__version__.startswith(LIGHT_VERSIONS):
        return
    cache = dispatcher._cache
    look, look_and_prepare = cache._load_overload, cache.load_overload

    def load_overload(signature: Any, context: Any) -> Any:
        try:
            importlib.import_module("numba.core.runtime").rtsys.initialize(context)  # what machine code may call
            with as_stages(context) if stage else nullcontext():
                found = look(signature, context)
        except Exception:  # numba's own way repairs or reports whatever it was
            found = None
        return look_and_prepare(signature, context) if found is None else found

    cache.load_overload = load_overload


@contextmanager
def _numba_settings(**settings: str) -> Iterator[None]:
    config = _numba_part("config")
    before = {name: getattr(config, name, None) for name in settings}
    vars(config).update(settings)
    try:
        yield
    finally:
        vars(config).update(before)


def _with_resolved_globals(kernel: Compiled[..., Any]) -> FunctionType:
    """The function with every compiled or deferred object that it names replaced by what numba knows."""
    function = kernel.function
    named = {name: value.resolved for name, value in kernel.named() if isinstance(value, (Compiled, Deferred))}
    code, constants = with_constants(function.__code__, function.__globals__)
    chosen = {name: kernel.parts.get(name, value) for name, value in constants.items()}
    scope = {**function.__globals__, **named, **chosen}
    copy = FunctionType(code, scope, function.__name__, function.__defaults__)
    # Machine code from the cache is linked by names, which must not be those of the whole function.
    copy.__qualname__ = function.__qualname__ + ("_reduced" if kernel.parts else "")
    copy.__kwdefaults__ = function.__kwdefaults__
    vars(copy)["title"] = kernel.title  # so that our own compilations are announced, and by what they are
    return copy


def _named(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The global objects that a function's code names; of a module of the package, its constants, `module.NAME`."""
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, ModuleType) and value.__name__.startswith(PACKAGE):
            yield from _constants_of(value, name, function)
        else:
            yield name, value


def _constants_of(module: ModuleType, name: str, function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function takes from a module by dots: plain constants alone, which become part of the machine code."""
    for attribute in _attributes(function.__code__, name):
        value = getattr(module, attribute, None)
        if not is_plain(value):
            raise TypeError(
                f"{function.__qualname__}: import what it needs from {module.__name__} by name; numbers, strings and "
                "tuples alone are found through a module"
            )
        yield f"{name}.{attribute}", value


@functools.cache
def _attributes(code: CodeType, module: str) -> tuple[str, ...]:
    """The attributes that a function's code takes of a global, in order, "" where it takes the global itself.

    Kept: a function is asked about in every kernel that it is a part of.
    """
    found: set[str] = set()
    for part in _codes(code):
        instructions = [one for one in dis.get_instructions(part) if one.opname != "CACHE"]
        for one, after in pairwise(instructions):
            if one.opname.startswith("LOAD_") and one.opname != "LOAD_CONST" and one.argval == module:
                found.add(after.argval if after.opname in ("LOAD_ATTR", "LOAD_METHOD") else "")
    return tuple(sorted(found))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _definition(function: FunctionType) -> list[object]:
    """The running code, not its file: that may have been edited since it was imported."""
    parts: list[object] = [function.__defaults__, function.__kwdefaults__]
    for code in _codes(function.__code__):
        literals = [c for c in code.co_consts if not isinstance(c, CodeType)]
        parts += [code.co_code, code.co_names, code.co_varnames, literals]
    return parts


def _constants(named: list[tuple[str, Any]]) -> Iterator[object]:
    """What the globals that a function names add to its machine code."""
    for name, value in named:
        if isinstance(value, (Compiled, Deferred)):
            yield name, value.fingerprint
        elif isinstance(value, (int, float, complex, str, bytes, tuple)):
            yield name, value
        elif hasattr(value, "tobytes"):  # arrays and scalars of numpy
            yield name, value.dtype.str, value.shape, value.tobytes()


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@functools.cache
def _announce_compilation() -> None:
    """Log which functions of this package are compiled, each when that begins; what they call is part of them.

    Until they are, nothing looks for garbage: numba makes millions of small objects, and looking takes a tenth of it.
    """
    event = _numba_part("event")
    under_way: list[bool] = []  # for each of them whether garbage was collected before

    def on_start(_: Any, started: Any) -> None:
        title = getattr(started.data["dispatcher"].py_func, "title", None)
        if title is not None:
            if not under_way:
                kept = "once for this version" if cache_folder() else "anew in every run"
                _say_once(f"compiling {title}{_type_of_numbers(started.data['args'])}, {kept} ...")
            under_way.append(gc.isenabled())
            gc.disable()

    def on_end(_: Any, ended: Any) -> None:
        if getattr(ended.data["dispatcher"].py_func, "title", None) is not None and under_way.pop():
            gc.enable()

    methods = {"on_start": on_start, "on_end": on_end}
    event.register("numba:compile", type("Announcer", (event.Listener,), methods)())


def _type_of_numbers(types: Any) -> str:
    """That of the first argument, where it is an array: machine code is made for each anew."""
    kind = getattr(types[0], "dtype", None) if types else None
    return "" if kind is None else f" in {kind}"


@functools.cache
def _say_once(message: str) -> None:
    _LOG.warning(message)
