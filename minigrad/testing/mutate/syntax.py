"""Mutants of a function's source: its syntax tree is changed in one place, and compiled where the function lives."""

from __future__ import annotations

import ast
import copy
import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """A function that was made wrong in one place: `rule` is the wrong one, `diff` the change if it has a source."""

    name: str
    rule: Callable[..., Any]
    diff: str = ""

    def __repr__(self) -> str:
        return self.name


class NoSourceError(ValueError):
    """A function whose source cannot be mutated."""


def source(function: Callable[..., Any]) -> Iterator[Mutant]:
    """The mutants of a function's source, each with one change, named after the line that changed.

    Operators are exchanged, operands and keywords dropped, comparisons and conditions turned round, constants moved by
    one and set to 0, calls and subscripts replaced by what they are applied to, arguments swapped, parameters taken
    for each other. A mutant is a function of its own, which sees the globals and the closure of the original; mutants
    that compile to what is there already are left out.

    Raises `NoSourceError` (a ValueError) for a lambda, a callable that is no function, and where no source is to be
    had.

    >>> from minigrad.testing import mutate
    >>> def tanh_vjp(g, out, x):
    ...     return g * (1 - out * out)
    >>> mutants = list(mutate.source(tanh_vjp))
    >>> print(mutants[0].diff)
    - return g * (1 - out * out)
    + return g / (1 - out * out)
    >>> mutants[0].rule(3.0, 0.5, 0.0)
    4.0
    """
    definition = _definition(function)
    before = _lines(definition)
    seen = {_fingerprint(_code(definition, function))}
    for tree in _mutated(definition):
        code = _code(tree, function)
        if _fingerprint(code) in seen:
            continue
        seen.add(_fingerprint(code))
        changes = list(difflib.ndiff(before, _lines(tree)))
        old = [line[2:].strip() for line in changes if line.startswith("- ")]
        new = [line[2:].strip() for line in changes if line.startswith("+ ")]
        diff = "\n".join([*(f"- {line}" for line in old), *(f"+ {line}" for line in new)])
        yield Mutant(f"{'; '.join(old)}  ->  {'; '.join(new)}", _function(code, function), diff)


# ---- from a function to its tree and back ----------------------------------------------------------------------------


def _definition(function: Any) -> ast.FunctionDef:
    name = getattr(function, "__name__", repr(function))
    if not isinstance(function, FunctionType):
        raise NoSourceError(f"{name} is a {type(function).__name__}, not a function: its source cannot be mutated")
    if name == "<lambda>":
        raise NoSourceError("a lambda has no source of its own to mutate: write the rule with def")
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        raise NoSourceError(f"the source of {name} is not to be had, so it cannot be mutated") from None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise NoSourceError(f"{name} is not written with def, so its source cannot be mutated")
    definition.decorator_list = []
    definition.returns = None
    for argument in ast.walk(definition.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    first = definition.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(definition.body) > 1:
        definition.body = definition.body[1:]  # the docstring
    return definition


def _lines(tree: ast.AST) -> list[str]:
    return ast.unparse(tree).splitlines()


def _code(definition: ast.FunctionDef, function: Any) -> CodeType:
    """Compile a definition with the free variables of `function`."""
    names = function.__code__.co_freevars
    outer = ast.parse(f"def outer({', '.join(names)}):\n    pass").body[0]
    assert isinstance(outer, ast.FunctionDef)  # noqa: S101  # as written
    outer.body = [definition]
    module = ast.fix_missing_locations(ast.Module([outer], []))
    return _inner(_inner(compile(module, function.__code__.co_filename, "exec", dont_inherit=True)))


def _inner(code: CodeType) -> CodeType:
    return next(const for const in code.co_consts if isinstance(const, CodeType))


def _function(code: CodeType, function: Any) -> Callable[..., Any]:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    made = FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, tuple(cells[n] for n in code.co_freevars)
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _fingerprint(code: CodeType) -> tuple[Any, ...]:
    """What a code object does, without where it stands."""
    consts = tuple(_fingerprint(c) if isinstance(c, CodeType) else (type(c), c) for c in code.co_consts)
    return (code.co_code, consts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)


# ---- changes ---------------------------------------------------------------------------------------------------------


def _mutated(definition: ast.FunctionDef) -> Iterator[ast.FunctionDef]:
    """The definition with one node of its body replaced, in all ways that `_replacements` knows.

    It is always the same tree, changed in place and changed back: use one before you ask for the next.
    """
    parameters = [a.arg for a in (*definition.args.posonlyargs, *definition.args.args, *definition.args.kwonlyargs)]
    places = [
        (node, field, i)
        for statement in definition.body
        for node in ast.walk(statement)
        for field, value in ast.iter_fields(node)
        for i in (range(len(value)) if isinstance(value, list) else (None,))
    ]
    for node, field, i in places:
        held = getattr(node, field)
        child = held if i is None else held[i]
        if not isinstance(child, ast.expr) or isinstance(node, ast.JoinedStr) or _is_strict(node):
            continue
        for new in _replacements(child, parameters):
            _put(node, field, i, new)
            yield definition
        _put(node, field, i, child)
    yield from _statements(definition)


def _is_strict(node: ast.AST) -> bool:
    """Whether this is `zip`'s `strict=...`: it asserts, and where it is right nothing depends on it."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _put(node: ast.AST, field: str, i: int | None, value: Any) -> None:
    if i is None:
        setattr(node, field, value)
    else:
        getattr(node, field)[i] = value


def _statements(definition: ast.FunctionDef) -> Iterator[ast.FunctionDef]:
    """The definition with an assignment in place changed: `+=` to `-=` and to `=`."""
    for node in ast.walk(definition):
        for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
            for i, statement in enumerate(body if isinstance(body, list) else []):
                if isinstance(statement, ast.AugAssign):
                    assert isinstance(body, list)  # noqa: S101
                    target = copy.deepcopy(statement.target)
                    other = ast.AugAssign(target, OPERATORS.get(type(statement.op), ast.Sub)(), statement.value)
                    for new in (other, ast.Assign([target], statement.value)):
                        body[i] = new
                        yield definition
                    body[i] = statement


OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip


def _replacements(node: ast.expr, parameters: list[str]) -> Iterator[ast.expr]:
    """What may stand wrongly in the place of an expression."""
    if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.BoolOp)):
        yield from _operations(node)
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                yield ast.Compare(node.left, [*node.ops[:i], other(), *node.ops[i + 1 :]], node.comparators)
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Constant):
        yield from _constants(node.value)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Slice):
        for part in ("lower", "upper", "step"):
            if getattr(node, part) is not None:
                yield ast.Slice(**{**dict(ast.iter_fields(node)), part: None})
    elif not isinstance(getattr(node, "ctx", None), ast.Load):
        return  # what is assigned to stays
    elif isinstance(node, ast.Subscript) or (isinstance(node, ast.Attribute) and node.attr == "T"):
        yield node.value
    elif isinstance(node, ast.Name) and node.id in parameters:
        yield from (ast.Name(other, ast.Load()) for other in parameters if other != node.id)


def _operations(node: ast.BinOp | ast.UnaryOp | ast.BoolOp) -> Iterator[ast.expr]:
    """Another operator, an operand alone, operands the other way round."""
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for i in range(len(node.values)):
            rest = [*node.values[:i], *node.values[i + 1 :]]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    else:
        if type(node.op) in OPERATORS:
            yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
        yield node.left
        yield node.right
        if not isinstance(node.op, (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr)):
            yield ast.BinOp(node.right, node.op, node.left)


def _constants(value: Any) -> Iterator[ast.expr]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, (int, float)):
        for other in dict.fromkeys((value + 1, value - 1, type(value)(0))):
            if other != value:
                yield ast.Constant(other)


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    """A call replaced by its first argument (of a method: by its object), with arguments swapped or dropped."""
    plain = [arg for arg in node.args if not isinstance(arg, ast.Starred)]
    if plain:
        yield plain[0]
    if isinstance(node.func, ast.Attribute):
        yield node.func.value
    if len(plain) > 1 and plain[:2] == node.args[:2]:
        yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    for i in [i for i, keyword in enumerate(node.keywords) if keyword.arg != "strict"]:
        yield ast.Call(node.func, node.args, [*node.keywords[:i], *node.keywords[i + 1 :]])
