"""The graders, graded: mechanical edits of every worked solution, each of which a grader must refuse.

    python -m tlora_ref.course.mutation            write tutorials/notes/graders.json, minutes
    python -m tlora_ref.course.mutation 02 dB      show the edits of one exercise, and which of them pass

An edit changes one place of the source: an operator, a sign, a factor, a transpose, a term or factor left out, a
constant or a count off by one, an axis, a comparison, an argument in the place of another, a statement left out, a
generator without its seed, an argument changed in place after the result is made, a result that is not returned.
What an edit leaves equivalent is listed in equivalent.py with the reason; every other edit must be refused.
Checked by  tests/test_graders.py, which makes the edits again and holds the stored figures against them.
"""

from __future__ import annotations

import ast
import copy
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import getsource
from pathlib import Path
from typing import Any

import numpy as np

from .equivalent import EQUIVALENT
from .grader import Exercise, exercises, notebooks

CHECKOUT = Path(__file__).parents[2] / "tutorials" / "notes" / "graders.json"
INSTALLED = Path(__file__).parent / "tutorials" / "notes" / "graders.json"
STORED = INSTALLED if INSTALLED.exists() else CHECKOUT
"""Where the figures are: in a wheel, which carries them beside this file, and in the repository."""

TOUCH = "_touch"
"""The name by which an edited solution calls the function that writes into an argument."""


@dataclass(frozen=True)
class Edit:
    """One edit: what was there, what stands there now, and the function that it makes."""

    says: str
    answer: Callable[..., Any]
    wrote: list[str]  # filled when the edit is to write into an argument and did
    writes: bool = False


# --- making edits ---------------------------------------------------------------------------------


def edits(notebook: str, name: str) -> list[Edit]:
    """All edits of a worked solution, each once."""
    module = import_module(f".solutions.nb{notebook}", __package__)
    tree = ast.parse(textwrap.dedent(getsource(getattr(module, name))))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = function.body[1:]  # without its docstring
    made, seen = [], {ast.dump(tree)}
    for says, edited in _trees(tree):
        key = ast.dump(edited)
        if key in seen:
            continue
        seen.add(key)
        wrote: list[str] = []
        space = dict(vars(module)) | {TOUCH: lambda value, kept=wrote: kept.append(_write(value))}
        try:
            exec(compile(ast.fix_missing_locations(edited), f"<{says}>", "exec"), space)
        except SyntaxError:  # a return without its loop, say: no edit that anybody could make
            continue
        made.append(Edit(says, space[name], wrote, TOUCH in says))
    return made


def _write(value: Any) -> str:
    """Change a value in place, whatever it is; "" where that cannot be done."""
    if isinstance(value, np.ndarray):
        value += np.ones((), value.dtype)
    elif isinstance(value, (list, set)) and value:
        value.pop()
    elif isinstance(value, dict):
        next(iter(value.values()))[...] += 1
    elif type(value).__module__ == "torch":
        value.data.add_(1)
    else:
        return ""
    return "wrote"


def _trees(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """(what was changed, the changed tree) for every edit."""
    parameters = [a.arg for a in tree.body[0].args.args]  # type: ignore[attr-defined]
    for place, node in enumerate(ast.walk(tree)):
        for new in _instead_of(node, parameters):
            edited = copy.deepcopy(tree)
            target = list(ast.walk(edited))[place]
            says = f"{_line(node)}: {_text(node)}  ->  {_text(new)}"
            if isinstance(node, ast.stmt):
                _exchange_statement(edited, target, new)
            else:
                _exchange(edited, target, new)
            yield says, edited
    yield from _writes(tree, parameters)


def _instead_of(node: ast.AST, parameters: list[str]) -> Iterator[Any]:
    """What may stand in place of a node."""
    if isinstance(node, ast.BinOp):
        yield from _operators(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _constants(node.value))
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        if node.id in parameters:
            others = [name for name in parameters if name != node.id]
            yield from (ast.Name(name, ast.Load()) for name in others[:4])
            yield ast.BinOp(node, ast.Add(), ast.Constant(1))
            yield ast.BinOp(node, ast.Sub(), ast.Constant(1))
        if node.id.rpartition("_")[2].isupper() and len(node.id.rpartition("_")[2]) > 1:
            yield ast.Attribute(node, "T", ast.Load())
    elif isinstance(node, ast.Compare):
        for op in _COMPARISONS.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [op()], node.comparators)
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, (ast.Tuple, ast.Set)) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        for i in range(len(node.elts) if len(node.elts) > 1 else 0):
            yield type(node)([*node.elts[:i], *node.elts[i + 1 :]], **_context(node))
        if isinstance(node, ast.Tuple) and len(node.elts) > 1:
            yield ast.Tuple([*node.elts[1:], node.elts[0]], ast.Load())
    elif isinstance(node, ast.Dict) and len(node.values) > 1:
        yield ast.Dict(node.keys, [*node.values[1:], node.values[0]])
        yield ast.Dict(node.keys[:-1], node.values[:-1])
    elif isinstance(node, ast.Return) and node.value is not None:
        yield from _returns(node.value)
    elif isinstance(node, (ast.If, ast.AugAssign)):
        yield ast.Pass()


_COMPARISONS: dict[Any, tuple[Any, ...]] = {
    ast.GtE: (ast.Gt, ast.LtE), ast.Gt: (ast.GtE, ast.Lt), ast.LtE: (ast.Lt, ast.GtE), ast.Lt: (ast.LtE, ast.Gt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip

_FUNCTIONS = {"sum": ("mean", "max"), "mean": ("sum", "max"), "argmax": ("argmin",), "min": ("max",), "max": ("min",),
              "cumsum": ("cumprod",), "imag": ("real",), "zeros": ("ones",), "float": ("double", "half")}  # fmt: skip


def _operators(node: ast.BinOp) -> Iterator[ast.expr]:
    others: dict[Any, tuple[Any, ...]] = {
        ast.Add: (ast.Sub, ast.Mult), ast.Sub: (ast.Add,), ast.Mult: (ast.Div, ast.Add),
        ast.Div: (ast.Mult, ast.FloorDiv),
    }  # fmt: skip
    for op in others.get(type(node.op), ()):
        yield ast.BinOp(node.left, op(), node.right)
    yield node.left
    yield node.right
    if isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult)):
        yield ast.BinOp(node.right, node.op, node.left)


def _constants(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, -value)
    elif isinstance(value, float):
        yield from (2 * value, value + 0.01, -value, 0.0)
    elif isinstance(value, str):
        yield value + "s"


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    for other in _FUNCTIONS.get(name, ()):
        func = copy.deepcopy(node.func)
        if isinstance(func, ast.Attribute):
            func.attr = other
        else:
            func.id = other  # type: ignore[attr-defined]
        yield ast.Call(func, node.args, node.keywords)
    for i in range(len(node.keywords)):
        yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])
    if node.args and not isinstance(node.args[0], ast.Starred):
        yield node.args[0]
        yield ast.Call(node.func, node.args[1:], node.keywords)
    if len(node.args) > 1:
        yield ast.Call(node.func, node.args[:-1], node.keywords)
    if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
        yield node.func.value


def _returns(value: ast.expr) -> Iterator[ast.Return | ast.Expr]:
    yield ast.Expr(value)  # computed and not returned
    several = isinstance(value, (ast.Tuple, ast.Dict, ast.Set, ast.SetComp, ast.Constant))
    if not several:
        yield ast.Return(ast.UnaryOp(ast.USub(), value))
        for factor in (2, 0, 1.0000001):
            yield ast.Return(ast.BinOp(value, ast.Mult(), ast.Constant(factor)))
        yield ast.Return(ast.BinOp(value, ast.Add(), ast.Constant(1)))
        yield ast.Return(ast.Call(ast.Name("str", ast.Load()), [value], []))


def _writes(tree: ast.Module, parameters: list[str]) -> Iterator[tuple[str, ast.Module]]:
    """The result is made, then something that came with the arguments is changed in place."""
    function = tree.body[0]
    unpacked = [
        name.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in parameters
        for target in node.targets
        if isinstance(target, (ast.Name, ast.Tuple))
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    ]
    for name in [*parameters, *unpacked]:
        edited = copy.deepcopy(tree)
        for node in list(ast.walk(edited)):
            for field in ("body", "orelse"):
                block = getattr(node, field, None)
                if isinstance(block, list):
                    setattr(node, field, [new for statement in block for new in _then_write(statement, name)])
        yield f"at the end: {TOUCH}({name})", edited


def _then_write(statement: ast.stmt, name: str) -> list[ast.stmt]:
    if not isinstance(statement, ast.Return) or statement.value is None:
        return [statement]
    made = ast.Assign([ast.Name("_made", ast.Store())], statement.value)
    write = ast.Expr(ast.Call(ast.Name(TOUCH, ast.Load()), [ast.Name(name, ast.Load())], []))
    return [made, write, ast.Return(ast.Name("_made", ast.Load()))]


def _exchange(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, copy.deepcopy(new))
                return
            if isinstance(value, list) and any(item is old for item in value):
                value[[item is old for item in value].index(True)] = copy.deepcopy(new)
                return


_exchange_statement = _exchange


def _context(node: ast.AST) -> dict[str, Any]:
    return {"ctx": ast.Load()} if isinstance(node, ast.Tuple) else {}


def _line(node: Any) -> str:
    return f"line {getattr(node, 'lineno', 0)}:{getattr(node, 'col_offset', 0)}"


def _text(node: Any) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return text if len(text) <= 40 else f"{text[:19]} .. {text[-17:]}"


# --- grading with them ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """How a grader did: edits refused, equivalent ones as listed, and what it let through beside them."""

    refused: int
    equivalent: dict[str, list[str]]  # by the reason
    passed: tuple[str, ...]


def score(exercise: Exercise) -> Score:
    """Hand every edit of the worked solution to the grader."""
    reasons = EQUIVALENT.get(f"{exercise.notebook} {exercise.name}", {})
    known = {says: reason for reason, listed in reasons.items() for says in listed}
    refused, passed = 0, []
    for edit in edits(exercise.notebook, exercise.name):
        says = exercise.verdict(edit.answer).says
        if edit.writes and "wrote" not in edit.wrote:
            continue  # a number cannot be written into
        if says:
            refused += 1
        else:
            passed.append(edit.says)
    equivalent: dict[str, list[str]] = {}
    for says in passed:
        if says in known:
            equivalent.setdefault(known[says], []).append(says)
    return Score(refused, equivalent, tuple(says for says in passed if says not in known))


def stored() -> dict[str, Any]:
    """The figures of the last run: "02 dB" -> {"refused": 60, "equivalent": {reason: [edit]}}."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def main(arguments: list[str]) -> None:
    """Show one exercise, or store the figures of all."""
    if arguments:
        result = score(exercises(arguments[0])[arguments[1]])
        print(f"refused {result.refused}, equivalent {result.equivalent}", *result.passed, sep="\n")
        return
    table = {}
    for number in notebooks():
        for exercise in exercises(number).values():
            result = score(exercise)
            table[f"{number} {exercise.name}"] = {"refused": result.refused, "equivalent": result.equivalent}
            print(f"{number} {exercise.name}: refused {result.refused}", *result.passed, sep="\n")
    STORED.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
