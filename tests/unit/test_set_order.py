"""No code of the protocol may depend on the order of a set: it differs between processes (PYTHONHASHSEED)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SET_CALLS = {"set", "frozenset"}
SET_METHODS = {"union", "intersection", "difference", "symmetric_difference"}
ORDERED_CONSUMERS = {"list", "tuple", "enumerate", "iter", "next", "zip", "map", "filter", "reversed", "islice"}

ORDER_BLIND = {"any", "all", "sorted", "set", "frozenset"}
"A generator handed straight to these may iterate over a set."


def is_set(node: ast.expr, known: set[str]) -> bool:
    """Whether the expression is a set as far as its text shows: dict views keep insertion order and are fine."""
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Name | ast.Attribute):
        return ast.unparse(node) in known
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return is_set(node.left, known) or is_set(node.right, known)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id in SET_CALLS
        return isinstance(node.func, ast.Attribute) and node.func.attr in SET_METHODS and is_set(node.func.value, known)
    return False


def names_of_sets(tree: ast.AST) -> set[str]:
    """Names and `self.` attributes annotated or assigned as sets anywhere in the file."""
    known: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).split("[")[0] in SET_CALLS:
            known.add(ast.unparse(node.target))
        elif isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation).split("[")[0] in SET_CALLS:
            known.add(node.arg)
        elif isinstance(node, ast.Assign) and is_set(node.value, set()):
            known.update(ast.unparse(target) for target in node.targets)
    return known


def iterations_over_sets(source: str) -> list[int]:
    """Lines where a set's order can reach a result."""
    tree = ast.parse(source)
    known, lines = names_of_sets(tree), []
    harmless = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ORDER_BLIND
        for argument in node.args
    }
    for node in ast.walk(tree):
        if id(node) in harmless:
            continue
        iterated: list[ast.expr] = []
        if isinstance(node, ast.For | ast.AsyncFor):
            iterated = [node.iter]
        elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp):
            iterated = [generator.iter for generator in node.generators]
        elif isinstance(node, ast.Starred):
            iterated = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ORDERED_CONSUMERS:
            iterated = node.args
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "join":
                iterated = node.args
            elif node.func.attr == "pop" and not node.args and not node.keywords:
                iterated = [node.func.value]
        lines += [node.lineno for candidate in iterated if is_set(candidate, known)]
    return sorted(lines)


@pytest.mark.parametrize("room", ["quiver", "sim"])
def test_no_iteration_over_a_set(room: str):
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in (ROOT / room).rglob("*.py")
        for line in iterations_over_sets(path.read_text())
    }
    assert not found, f"wrap in sorted(): {sorted(found)}"


@pytest.mark.parametrize(
    "source",
    [
        "for x in {1, 2}: pass",
        "for x in set(y): pass",
        "[x for x in {y for y in z}]",
        "list(a.keys() & set(b))",
        "peers: set[int] = set()\nfor p in peers: pass",
        "self.tried = set()\nself.tried.pop()",
        "def f(tried: frozenset[int]): return tuple(tried - other)",
        "','.join({'a', 'b'})",
        "print(*{1, 2})",
    ],
)
def test_the_check_finds_each_shape(source: str):
    assert len(iterations_over_sets(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "for x in sorted({1, 2}): pass",
        "for x in table.values(): pass",
        "sorted(f(x) for x in {1, 2})",
        "for x in dict.fromkeys(y): pass",
        "peers: set[int] = set()\nn = len(peers)\nok = 1 in peers",
        "stack = [1]\nstack.pop()",
    ],
)
def test_the_check_leaves_ordered_things_alone(source: str):
    assert iterations_over_sets(source) == []
