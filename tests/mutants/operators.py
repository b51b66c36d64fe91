"""The mutations: those of cosmic-ray that suit this code, and some that it lacks, in its interface."""

from collections.abc import Callable, Iterator
from typing import Any

import parso
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider

ARITHMETIC = ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow")
ORDER = ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE")
# Each is replaced by the other one.
PAIRS = (
    ("min", "max"), ("minimum", "maximum"), ("amin", "amax"), ("argmin", "argmax"), ("any", "all"), ("floor", "ceil"),
    ("sin", "cos"), ("sum", "mean"), ("ones", "zeros"), ("ones_like", "zeros_like"), ("std", "var"), ("exp", "expm1"),
    ("log", "log1p"),
)  # fmt: skip
OTHER = dict(PAIRS) | {b: a for a, b in PAIRS}
ASSIGNMENTS = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*="}
# Methods that give what they are called on in another form, so that leaving them out is a mistake one can make.
METHODS = frozenset([
    "abs", "clamp", "clone", "cumprod", "cumsum", "detach", "double", "exp", "expm1", "flatten", "flip", "float", "log",
    "log1p", "neg", "reciprocal", "round", "rsqrt", "sigmoid", "softmax", "sort", "sqrt", "square", "strip", "tanh",
])  # fmt: skip
MODULES = frozenset(["torch", "math", "np", "functional"])
# Keyword arguments that only make a program faster, guard against mistakes, show in what is printed of an object, or
# need an accelerator to show.
UNSEEN = ("strict", "device", "non_blocking", "pin_memory", "maxsize", "mmap", "repr")
# Functions of arguments in any order.
SYMMETRIC = frozenset([
    "min", "max", "minimum", "maximum", "equal", "isclose", "allclose", "hypot", "frechet",
    "power_function_correlation", "wasserstein_distance", "structural_similarity_index_measure",
])  # fmt: skip
# Hashes, which are another but as good one of the arguments in another order.
HASHES = frozenset(["derive_seed", "generator", "digest"])
# And those whose order nobody confuses.
FIXED = SYMMETRIC | HASHES | {"isinstance", "getattr", "hasattr", "setattr", "cast", "issubclass"}

Span = tuple[tuple[int, int], tuple[int, int]]


class OwnOperator(Operator):
    """An operator given by its places in a node: each a span and a function that changes the tree there."""

    def places(self, node: Any) -> Iterator[tuple[Span, Callable[[], None]]]:
        raise NotImplementedError

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        return iter([span for span, _ in self.places(node)])  # at once, since `mutate` changes the node in between

    def mutate(self, node: Any, index: int) -> Any:
        list(self.places(node))[index][1]()
        return node


def span(*nodes: Any) -> Span:
    return nodes[0].start_pos, nodes[-1].end_pos


class DeleteStatement(OwnOperator):
    """Replace by `pass` a call, a raise, or an assignment to a part of something; without others, a name is missing."""

    def places(self, node: Any) -> Iterator[tuple[Span, Callable[[], None]]]:
        if node.type != "simple_stmt":
            return
        statement = node.children[0]
        assigned = statement.type == "expr_stmt" and len(statement.children) == 3
        if statement.type in ("atom_expr", "raise_stmt") or (assigned and statement.children[0].type == "atom_expr"):

            def delete() -> None:
                prefix = statement.get_first_leaf().prefix
                node.children[0] = parso.python.tree.Keyword("pass", statement.start_pos, prefix)

            yield span(statement), delete

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(x)\n", "pass\n"), Example("a.b = c\nx = 1\n", "pass\nx = 1\n"))


class DropKeyword(OwnOperator):
    """Leave out a keyword argument of a call."""

    def places(self, node: Any) -> Iterator[tuple[Span, Callable[[], None]]]:
        if node.type not in ("arglist", "trailer"):
            return
        for i, child in enumerate(node.children):
            if child.type == "argument" and child.children[1] == "=" and child.children[0].value not in UNSEEN:

                def drop(i: int = i) -> None:
                    last = i + 1 == len(node.children)
                    # With the comma after it, or before the last one.
                    gone = {i} if node.type == "trailer" else {i, i - 1 if last else i + 1}
                    node.children = [c for j, c in enumerate(node.children) if j not in gone]

                yield span(child), drop

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(x, a=1)", "f(x)"), Example("f(a=1)", "f()"), Example("f(a=1, b=2)", "f( b=2)"))


class SwapArguments(OwnOperator):
    """Swap two arguments that follow each other in a call."""

    def places(self, node: Any) -> Iterator[tuple[Span, Callable[[], None]]]:
        if node.type != "arglist" or node.get_previous_leaf() != "(":
            return
        function = node.parent.get_previous_sibling()
        if function is None or node.parent.type != "trailer" or function.get_code().strip(" .") in FIXED:
            return
        for i in range(0, len(node.children) - 2, 2):
            a, b = node.children[i], node.children[i + 2]
            if "argument" not in (a.type, b.type) and a.get_code().strip() != b.get_code().strip():

                def swap(i: int = i, a: Any = a, b: Any = b) -> None:
                    first, second = a.get_first_leaf(), b.get_first_leaf()
                    first.prefix, second.prefix = second.prefix, first.prefix
                    node.children[i], node.children[i + 2] = b, a

                yield span(a, b), swap

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(x, y)", "f(y, x)"), Example("f(x, y, z)", "f(x, z, y)", 1))


class DropMethod(OwnOperator):
    """Leave out the call of a method."""

    def places(self, node: Any) -> Iterator[tuple[Span, Callable[[], None]]]:
        if node.type != "atom_expr":
            return
        for i in range(1, len(node.children) - 1):
            name, call = node.children[i : i + 2]
            called = {name.type, call.type} == {"trailer"} and call.children[0] == "(" and name.children[0] == "."
            of_module = i == 1 and node.children[0].get_code().strip() in MODULES
            if called and not of_module and name.children[1].value in METHODS:

                def drop(i: int = i) -> None:
                    del node.children[i : i + 2]

                yield span(name, call), drop

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("y = x.exp().sum()", "y = x.sum()"),)


class SwapName(OwnOperator):
    """Replace the name of a function by that of its counterpart."""

    def places(self, node: Any) -> Iterator[tuple[Span, Callable[[], None]]]:
        following = node.get_next_leaf() if node.type == "name" else None
        if following == "(" and node.value in OTHER and node.parent.type != "funcdef":
            yield span(node), lambda: setattr(node, "value", OTHER[node.value])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("min(x, y)", "max(x, y)"),)


class SwapMembership(OwnOperator):
    """Replace `in` by `not in`, and the reverse."""

    def places(self, node: Any) -> Iterator[tuple[Span, Callable[[], None]]]:
        if node.type != "comparison":
            return
        for i, word in enumerate(node.children[1::2]):
            text = word.get_code().strip()
            if text in ("in", "not in"):

                def swap(i: int = i, word: Any = word, other: str = "in" if text == "not in" else "not in") -> None:
                    node.children[2 * i + 1] = parso.python.tree.Keyword(other, word.start_pos, " ")

                yield span(word), swap

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("a in b", "a not in b"),)


class SwapAssignment(OwnOperator):
    """Replace `+=` by `-=`, `*=` by `/=`, and the reverse."""

    def places(self, node: Any) -> Iterator[tuple[Span, Callable[[], None]]]:
        if node.type == "operator" and node.value in ASSIGNMENTS:
            yield span(node), lambda: setattr(node, "value", ASSIGNMENTS[node.value])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x += 1", "x -= 1"),)


OWN = (DeleteStatement, DropKeyword, SwapArguments, DropMethod, SwapName, SwapMembership, SwapAssignment)


def operators() -> list[Operator]:
    """All of them."""
    names = [f"ReplaceBinaryOperator_{a}_{b}" for a in ARITHMETIC for b in ARITHMETIC if a != b]
    names += [f"ReplaceComparisonOperator_{a}_{b}" for a in ORDER for b in ORDER if a != b]
    names += ["ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is"]
    names += ["ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not", "AddNot", "NumberReplacer"]
    names += ["ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"]
    names += ["ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "ZeroIterationForLoop"]
    names += ["RemoveDecorator"]
    known = OperatorProvider()
    return [known[name]() for name in names] + [operator() for operator in OWN]
