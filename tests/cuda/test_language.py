"""Compiled functions keep to what every Triton from 3.4 on compiles: the interpreter takes any Python, and cannot tell.

Triton finds what a function depends on with a visitor of its own, then compiles it with another: both refuse more than
the grammar does, and older versions more than newer ones.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import triton.language as tl

import nanobrag_torch.kernels.cuda

ROOM = Path(nanobrag_torch.kernels.cuda.__file__).parent
DECORATORS = {"jit", "kernel"}
STATEMENTS = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.If, ast.For, ast.While, ast.Expr, ast.Pass)
EXPRESSIONS = (
    *(ast.Tuple, ast.BinOp, ast.Compare, ast.UnaryOp, ast.BoolOp, ast.IfExp, ast.Subscript, ast.Slice),
    *(ast.Attribute, ast.Call, ast.Name, ast.Constant, ast.List),
)


def compiled_functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = {getattr(d.func if isinstance(d, ast.Call) else d, "id", "") for d in node.decorator_list}
            if names & DECORATORS:
                yield node


def targets_of(node):
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.For | ast.AugAssign | ast.AnnAssign) else []


def refused(node):
    """Why some Triton refuses a node, or nothing."""
    if isinstance(node, ast.stmt) and not isinstance(node, STATEMENTS):
        return f"the statement {type(node).__name__}"
    if isinstance(node, ast.expr) and not isinstance(node, EXPRESSIONS):
        return f"the expression {type(node).__name__}"
    targets = targets_of(node)
    if len(targets) > 1:
        return "several targets of one assignment"
    if any(not isinstance(e, ast.Name) for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])):
        return "a target that is neither a name nor a tuple of names"
    if isinstance(node, ast.Compare) and len(node.ops) > 1:
        return "a chain of comparisons"
    if isinstance(node, ast.For | ast.While) and node.orelse:
        return "an else of a loop"
    return ""


def faults(source):
    return [
        f"line {getattr(node, 'lineno', '?')} of {function.name}: {reason}"
        for function in compiled_functions(ast.parse(source))
        for statement in function.body
        for node in ast.walk(statement)
        if (reason := refused(node))
    ]


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_every_triton_compiles_the_language_of_a_module(path):
    assert faults(path.read_text()) == []


def test_there_are_compiled_functions():
    """So that a change of how functions are marked does not leave nothing to look at."""
    found = [f for path in ROOM.glob("*.py") for f in compiled_functions(ast.parse(path.read_text()))]
    assert len(found) > 40


@pytest.mark.parametrize(
    "line",
    [
        "(a, b), c = f(x)",
        "a = b = x",
        "a[0] = x",
        "a = [i for i in x]",
        "a = 0 < x < 1",
        "a = (lambda: x)()",
        "for (i, j), k in x: pass",
        "with x: pass",
        "a = (b := x)",
    ],
)
def test_what_some_triton_refuses_is_found(line):
    assert len(faults(f"@jit\ndef f(x):\n    {line}\n")) == 1
    assert faults(f"def f(x):\n    {line}\n") == []


def test_no_record_has_a_field_that_triton_has_a_meaning_for():
    """Records become tuples of its own, whose attributes hide fields of the same name."""
    kinds = [
        node
        for path in ROOM.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") == "NamedTuple" for base in node.bases)
    ]
    names = {f.target.id for kind in kinds for f in kind.body if isinstance(f, ast.AnnAssign)}
    assert len(kinds) > 10
    assert not names & {*dir(tl.tuple([])), "values", "type", "handle"}
