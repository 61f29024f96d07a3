"""The shape of the code: imports go downwards only, functions and modules stay small, everything is annotated."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nanobrag_torch"
MODULES = sorted(SOURCE.rglob("*.py"))

# Rooms from the ground up. A module may import its own level or a lower one; io and physics do not see each other's
# level from below: io is plain data.
LEVELS = {
    "errors": 0,
    "lazy": 0,
    "units": 0,
    "polynomials": 0,
    "compiled_constants": 0,
    "compiled_files": 0,
    "compiled_libraries": 0,
    "torch_threads": 0,
    "devices": 1,
    "memory": 1,
    "checked": 1,
    "checks": 1,
    "config": 2,
    "compat": 1,
    "compilation": 1,
    "records": 2,
    "workers": 2,
    "io": 3,
    "physics": 3,
    "sampling": 3,
    "c_random": 4,
    "crystallography": 4,
    "kernels": 4,
    "report": 4,
    "models": 5,
    "background": 6,
    "compat_phi": 6,
    "response": 6,
    "tracing": 7,
    "simulator": 8,
    "batches": 9,
    "experiment": 9,
    "testing": 9,
    "utils": 9,
    "refinement": 10,
    "datasets": 10,
    "validation": 11,
    "cli": 13,
    "__init__": 14,
    "__main__": 14,
}


def room(module: str) -> str:
    """nanobrag_torch.physics.rotations -> physics."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path) -> list[str]:
    """Package modules that a file imports anywhere: functions, and what is for the type checker alone, included."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nanobrag_torch":
            module = node.module or ""
            found += [f"nanobrag_torch.{a.name}" for a in node.names] if module == "nanobrag_torch" else [module]
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.startswith("nanobrag_torch.")]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_downwards(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for target in imports(path):
        if room(target) == "__version__":
            continue
        assert room(target) in LEVELS, f"{target}: give its room a level"
        assert LEVELS[room(target)] <= LEVELS[own], f"{path.name} ({own}) imports {target}"
        if LEVELS[room(target)] == LEVELS[own]:
            assert room(target) == own, f"{path.name} ({own}) imports its neighbour {target}"


PHYSICS = sorted((SOURCE / "physics").glob("*.py"))
PLAIN = {"nanobrag_torch.errors", "nanobrag_torch.units", "nanobrag_torch.polynomials"}
SPOT_SHAPES = "nanobrag_torch.config"  # the enumeration that a profile is chosen by


@pytest.mark.parametrize("path", PHYSICS, ids=lambda p: p.name)
def test_physics_is_functions_of_tensors_only(path):
    """No state, no files, no configuration, no arrays of numpy, and no class but records and enumerations."""
    for target in imports(path):
        home = target.startswith("nanobrag_torch.physics") or target in PLAIN
        assert home or (target == SPOT_SHAPES and "CrystalShape" in path.read_text()), f"{path.name} imports {target}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert not {name.split(".")[0] for name in names} & {"numpy", "numba", "os", "io", "pathlib"}, path.name
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base) for base in node.bases}
            assert bases & {"NamedTuple", "IntEnum", "Enum"}, f"{path.name}: class {node.name} holds state"
        assert not isinstance(node, ast.Global), f"{path.name} has a global that changes"


def bodies() -> list[tuple[int, str]]:
    """Lines of every function body, docstring left out, with its place."""
    found: list[tuple[int, str]] = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                has_docstring = isinstance(node.body[0], ast.Expr) and isinstance(
                    getattr(node.body[0], "value", None), ast.Constant
                )
                body = node.body[1:] if has_docstring else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                found.append((lines, f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}"))
    return sorted(found)


def test_functions_stay_small():
    found = bodies()
    assert found[-1][0] <= 70, [entry for entry in found if entry[0] > 70]
    assert found[int(0.9 * len(found))][0] <= 30


def test_modules_stay_small():
    long = {str(p): n for p in MODULES if (n := len(p.read_text().splitlines())) > 500}
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_public_name_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py" or path.read_text().strip():
        assert ast.get_docstring(tree), f"{path}: a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.returns is not None, f"{path}:{node.lineno} {node.name} has no return type"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"
