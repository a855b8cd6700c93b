"""Small changes to a module's source, each of which should make a test fail: mutants."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Final

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    # Flipped, and off by one.
    ast.Lt: (ast.GtE, ast.LtE),
    ast.LtE: (ast.Gt, ast.Lt),
    ast.Gt: (ast.LtE, ast.GtE),
    ast.GtE: (ast.Lt, ast.Gt),
}
_OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module.

    Attributes:
        path: the source file.
        place: where in the file's syntax tree; counts what `_walk` meets.
        variant: which of the changes that are possible there.
        line: the line number, from 1.
        change: what it was and what it became.
    """

    path: Path
    place: int
    variant: int
    line: int
    change: str

    @property
    def name(self) -> str:
        """Say where the mutant is and what it changes."""
        return f"{self.path.parent.name}/{self.path.name}:{self.line}: {self.change}"

    def compile(self) -> CodeType:
        """Return the code of the changed module."""
        tree = ast.parse(self.path.read_text())
        for place, site in enumerate(_walk(tree)):
            if place == self.place:
                site.replace(_variants(site)[self.variant])
                return compile(ast.fix_missing_locations(tree), str(self.path), "exec")
        raise LookupError(self.name)


def list_mutants(path: Path) -> list[Mutant]:
    """Return every mutant of a module."""
    mutants = []
    for place, site in enumerate(_walk(ast.parse(path.read_text()))):
        for variant, changed in enumerate(_variants(site)):
            change = f"{_shorten(site.node)} -> {_shorten(changed)}"
            mutants.append(Mutant(path, place, variant, site.line, change))
    return mutants


@dataclass(frozen=True, slots=True)
class _Site:
    """A node, where it hangs in the tree, and whether it decides between two ways."""

    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST
    line: int
    is_condition: bool

    def replace(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def _walk(tree: ast.AST, line: int = 1) -> Iterator[_Site]:
    """Yield what can be changed, always in the same order; annotations and type aliases not."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or _is_only_for_types(node):
                continue
            at = getattr(node, "lineno", line)
            yield _Site(
                tree,
                field,
                index if isinstance(value, list) else None,
                node,
                at,
                field in ("test", "ifs", "guard") or isinstance(tree, ast.BoolOp),
            )
            yield from _walk(node, at)


def _is_only_for_types(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    return (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.annotation, ast.Name)
        and node.annotation.id == "TypeAlias"
    )


def _variants(site: _Site) -> list[ast.AST]:
    node = site.node
    match node:
        case ast.Compare():
            return _compared_otherwise(node)
        case ast.BoolOp():
            other = copy.deepcopy(node)
            other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            return [other]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return [node.operand]
        case ast.BinOp() | ast.AugAssign() if type(node.op) in _OPERATORS:
            swapped = copy.deepcopy(node)
            swapped.op = _OPERATORS[type(node.op)]()
            return [swapped]
        case ast.Constant(value=bool()):
            return [ast.Constant(not node.value)]
        case ast.Constant(value=int(number)):
            return [ast.Constant(number + 1), ast.Constant(number - 1)]
        case ast.Break():
            return [ast.Continue()]
        case ast.Continue():
            return [ast.Break()]
        case ast.Raise() | ast.Return(value=None) | ast.Expr(value=ast.Call()):
            return [ast.Pass()]
        case ast.match_case(guard=None) if not isinstance(node.pattern, ast.MatchAs):
            never = copy.deepcopy(node)
            never.guard = ast.Constant(False)
            return [never]
        case ast.expr() if site.is_condition:
            return [ast.UnaryOp(ast.Not(), copy.deepcopy(node))]
    return []


def _compared_otherwise(node: ast.Compare) -> list[ast.AST]:
    variants: list[ast.AST] = []
    for index, (op, right) in enumerate(zip(node.ops, node.comparators, strict=True)):
        for other in _COMPARISONS[type(op)]:
            flipped = copy.deepcopy(node)
            flipped.ops[index] = other()
            variants.append(flipped)
        # In (a, b, c): each of them left out.
        if isinstance(right, ast.Tuple):
            for left_out in range(len(right.elts)):
                fewer = copy.deepcopy(node)
                fewer.comparators[index] = ast.Tuple(
                    [elt for at, elt in enumerate(right.elts) if at != left_out], ast.Load()
                )
                variants.append(fewer)
    return variants


def _shorten(node: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(node)))
    text = " ".join(text.split())
    return text if len(text) <= 90 else text[:87] + "..."
