"""Mechanical edits of a source file, one place at a time: what a mutation test makes of it.

An edit exchanges an operator, a comparison, a constant, a key, an axis, an array for another one of the same letters,
a branch or a function for its opposite; it drops a term, a factor, a transpose, a sign, a condition, an argument, an
element or a statement. Function bodies and the defaults of their parameters are edited; docstrings, annotations,
decorators, messages of errors, what a file says outside of functions and what it calls there are not.

An edit is told by its function and by the statement before and after, so that a list of edits outlives other changes
of the file; where a function says a statement twice, by its number as well.
Checked by  tests/test_mutate.py.
"""

from __future__ import annotations

import ast
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from types import FunctionType
from typing import Any

from ..shapes import split_name


@dataclass(frozen=True)
class Edit:
    """One edit: the function it is made in, the statement before and after, and the source of the whole function."""

    function: str
    says: str
    before: str
    after: str

    @property
    def of(self) -> str:
        """A few characters that change with the function."""
        return sha256(self.before.encode()).hexdigest()[:8]


def edits(source: str) -> list[Edit]:
    """Every edit of every function of a file, each once, in the order of the file. A function that the file calls while
    it is loaded has done its work when an edit is planted, and is left as it is."""
    body = ast.parse(source).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    others = [part for node in body if node not in functions for part in ast.walk(node)]
    loading = {part.func.id for part in others if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)}
    return [edit for node in functions if node.name not in loading for edit in _of_function(node)]


def plant(edit: Edit, module: Any) -> None:
    """Put the edited function in the place of the right one, in this process and for everybody who holds it: the
    function stays the same object and gets another code."""
    space = dict(vars(module))
    exec(compile(edit.after, f"<{edit.function}: {edit.says}>", "exec"), space)
    made, target = space[edit.function], getattr(module, edit.function)
    target = getattr(target, "__wrapped__", target)
    assert isinstance(target, FunctionType)
    target.__code__, target.__defaults__, target.__kwdefaults__ = made.__code__, made.__defaults__, made.__kwdefaults__


# --- the edits of a function ----------------------------------------------------------------------


def _of_function(node: ast.FunctionDef) -> Iterator[Edit]:
    function = copy.deepcopy(node)
    function.decorator_list = []
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:] or [ast.Pass()]
    before = _source(function)
    names = _arrays(function)
    seen: set[str] = {before}
    said: dict[str, int] = {}
    for statement in [function, *_statements(function)]:
        for place in _places(statement):
            for new in _instead_of(place, names, statement.lineno):
                edited = _with(function, place, new)
                try:
                    after = _source(edited)
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", SyntaxWarning)
                        compile(after, "<edit>", "exec")
                except (SyntaxError, ValueError):  # no edit that anybody could make
                    continue
                if after in seen:
                    continue
                seen.add(after)
                says = f"{_head(statement)}  ->  {_head(_with(statement, place, new))}"
                said[says] = said.get(says, 0) + 1
                number = f" ({said[says]})" if said[says] > 1 else ""
                yield Edit(node.name, says + number, before, after)


def _source(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node)))


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements inside, but not what is inside of a function that is defined there."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, (ast.Raise, ast.expr)):
            yield from _statements(child)


def _places(statement: ast.stmt) -> Iterator[ast.AST]:
    """The statement itself and every expression of its own, but not those of the statements inside it."""
    if isinstance(statement, ast.FunctionDef):
        for default in [*statement.args.defaults, *(d for d in statement.args.kw_defaults if d is not None)]:
            yield from ast.walk(default)
        return
    if isinstance(statement, ast.Raise):
        return
    yield statement
    for field, value in ast.iter_fields(statement):
        if field == "annotation":
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, (ast.expr, ast.withitem)):
                yield from ast.walk(item)


def _head(statement: ast.AST) -> str:
    """A statement on one line; of one that has others inside, its head."""
    if isinstance(statement, (ast.FunctionDef, ast.If, ast.For, ast.While, ast.With, ast.Try)):
        hollow = copy.copy(statement)
        hollow.body = [ast.Pass()]
        if hasattr(hollow, "orelse"):
            hollow.orelse = []
        statement = hollow
    return " ".join(_source(statement).removesuffix("pass").split()) or "nothing"


class _Exchange(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: Any) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else self.generic_visit(node)


def _with(tree: Any, old: ast.AST, new: Any) -> Any:
    """A copy of the tree with one node exchanged."""
    memo: dict[int, Any] = {}
    edited = copy.deepcopy(tree, memo)
    target = memo.get(id(old))
    if target is None or tree is old:
        return new
    return _Exchange(target, copy.deepcopy(new)).visit(edited)


def _arrays(function: ast.FunctionDef) -> dict[str, list[tuple[str, int]]]:
    """The parameters and variables of a function by the letters of their axes, those without letters left out; each
    with the line after which it has a value."""
    names = [(arg.arg, 0) for arg in [*function.args.args, *function.args.kwonlyargs]]
    stored = [n for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    names += sorted(((n.id, n.lineno) for n in stored), key=lambda pair: pair[1])
    first: dict[str, int] = {}
    for name, line in names:
        first.setdefault(name, line)
    uses: dict[str, list[tuple[str, int]]] = {}
    for name, line in first.items():
        letters = split_name(name)[1]
        if letters:
            uses.setdefault(letters, []).append((name, line))
    return uses


# --- what may stand in place of a node -------------------------------------------------------------

OPERATORS: dict[Any, tuple[Any, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.MatMult: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}  # fmt: skip

COMPARISONS: dict[Any, tuple[Any, ...]] = {
    ast.GtE: (ast.Gt, ast.Lt), ast.Gt: (ast.GtE, ast.LtE), ast.LtE: (ast.Lt, ast.Gt), ast.Lt: (ast.LtE, ast.GtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip

FUNCTIONS = {"sum": ("mean",), "mean": ("sum",), "max": ("min",), "min": ("max",), "maximum": ("minimum",),
             "zeros": ("ones",), "ones": ("zeros",), "zeros_like": ("ones_like",)}  # fmt: skip


def _instead_of(node: ast.AST, names: dict[str, list[tuple[str, int]]], line: int) -> Iterator[Any]:
    if isinstance(node, ast.BinOp):
        for op in OPERATORS.get(type(node.op), ()):
            yield ast.BinOp(node.left, op(), node.right)
        yield node.left
        yield node.right
        if isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult)):
            yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.op, (ast.USub, ast.Not)) and not isinstance(node.operand, ast.Constant):
            yield node.operand
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
        yield from node.values
    elif isinstance(node, ast.Compare):
        for op in COMPARISONS.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [op(), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _constants(node.value))
    elif isinstance(node, ast.Attribute):
        if node.attr in ("T", "real"):
            yield node.value
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        letters = split_name(node.id)[1]
        others = [other for other, since in names.get(letters, []) if other != node.id and since < line]
        yield from (ast.Name(other, ast.Load()) for other in others)
        if len(letters) > 1:
            yield ast.Attribute(node, "T", ast.Load())
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, (ast.Tuple, ast.Set, ast.List)) and len(node.elts) > 1:
        if isinstance(getattr(node, "ctx", None), ast.Store):
            return
        for i in range(len(node.elts)):
            rest = [*node.elts[:i], *node.elts[i + 1 :]]
            yield ast.Set(rest) if isinstance(node, ast.Set) else type(node)(rest, ast.Load())
    elif isinstance(node, ast.Dict) and len(node.values) > 1:
        for i in range(len(node.values)):
            yield ast.Dict([*node.keys[:i], *node.keys[i + 1 :]], [*node.values[:i], *node.values[i + 1 :]])
    elif isinstance(node, ast.If):
        for value in (True, False):
            yield ast.If(ast.Constant(value), node.body, node.orelse)
    elif isinstance(node, ast.AugAssign):
        yield ast.Pass()
        for op in OPERATORS.get(type(node.op), ()):
            yield ast.AugAssign(node.target, op(), node.value)
    elif isinstance(node, ast.Expr) or (isinstance(node, ast.Assign) and _again(node)):
        yield ast.Pass()


def _again(node: ast.Assign) -> bool:
    """May the assignment be left out: does it write into something, or give a name another value?"""
    target = node.targets[0]
    used = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    return isinstance(target, ast.Subscript) or (isinstance(target, ast.Name) and target.id in used)


def _constants(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, float):
        yield from (2 * value + (not value), -value)
    elif isinstance(value, str) and value:
        yield value + "_"


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    for other in FUNCTIONS.get(name, ()):
        func = copy.deepcopy(node.func)
        setattr(func, "attr" if isinstance(func, ast.Attribute) else "id", other)
        yield ast.Call(func, node.args, node.keywords)
    for i in range(len(node.keywords)):
        yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])
    for i in range(len(node.args) if len(node.args) > 1 else 0):
        yield ast.Call(node.func, node.args[:i] + node.args[i + 1 :], node.keywords)
    if node.args and not isinstance(node.args[0], ast.Starred):
        yield node.args[0]
    if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") != "np":
        yield node.func.value
