"""The mutants of a file, and a random choice of some."""

import ast
import difflib
import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from tests.mutants.line_map import IMPORTED, LineMap
from tests.mutants.operators import UNSEEN, Span, operators
from tests.mutants.scope import IN_FORKS, OF_SIGNATURES

# Constants that trade precision for time or memory, of which one more or less is as good.
COMPROMISES = (
    "CHUNK", "CALLS, NUMBERS", "ITERATIONS", "MAX_BOOTSTRAP", "MAX_FIT_SAMPLES", "QUANTILES", "SIZES", "SOME",
    "SPACING", "ZOOM",
)  # fmt: skip
BINARY = ("arith_expr", "term", "power", "expr")
# By the type of the node, how those begin that are read by people or type checkers,
# only make the program faster, or need an accelerator to show.
MEANINGLESS = {
    "atom_expr": ("Annotated[", "log.", "warnings.", "print("),
    "argument": tuple(f"{name}=" for name in UNSEEN),
    "simple_stmt": ("log.", "warnings.", "print("),
    "expr_stmt": ("__all__", "full_state_update", "higher_is_better", *(f"{name} =" for name in COMPROMISES)),
}
DECLARATIONS = frozenset(
    ["property", "dataclass", "abstractmethod", "staticmethod", "classmethod", "override", "lru_cache"]
)


# Comparisons with 0 that give the same for what is never negative: lengths and remainders.
SAME_FOR_COUNTS = ("Eq_LtE", "LtE_Eq", "NotEq_Gt", "Gt_NotEq")


@dataclass(frozen=True)
class Mutant:
    """A changed file.

    Attributes:
        file: its path.
        operator: the name of its kind.
        function: the qualified name of the function or class that the change is in; empty outside.
        before, after: the changed lines, with single spaces.
        line: the number of the first one.
        lines: those whose execution the change can show in.
        imported: True if the import executes the changed line: a default, or what stands in a class or a module.
        source: the whole text.
    """

    file: str
    operator: str
    function: str
    before: str
    after: str
    line: int
    lines: tuple[int, ...]
    imported: bool
    source: str

    @property
    def key(self) -> tuple[str, ...]:
        """What remains when lines move."""
        return self.file, self.function, self.before, self.after

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.before}  ->  {self.after}"


def positions(file: str) -> dict[Span, list[tuple[Any, int, Any]]]:
    """The operators with their occurrence and the node, by the position that they change."""
    found: dict[Span, list[tuple[Any, int, Any]]] = defaultdict(list)
    nodes = list(ast_nodes(get_ast(Path(file).read_text())))
    for operator in operators():
        occurrence = 0
        for node in nodes:
            for span in operator.mutation_positions(node):
                if counts(operator, node):
                    found[span].append((operator, occurrence, node))
                occurrence += 1
    return dict(sorted(found.items()))


def counts(operator: Any, node: Any) -> bool:
    """False where a change is meaningless: in annotations, messages, imports, declarations."""
    kind = type(operator).__name__
    if kind.startswith("ReplaceBinaryOperator") and node.parent.type not in BINARY:
        return False
    if kind.startswith("ReplaceComparisonOperator") and kind.endswith(SAME_FOR_COUNTS) and compares_count(node):
        return False
    if kind == "RemoveDecorator":
        return not DECLARATIONS & set(node.get_code(include_prefix=False).strip("@\n ").replace("(", ".").split("."))
    if node.get_code(include_prefix=False).startswith(MEANINGLESS.get(node.type, ())):
        return False
    while node.parent is not None:
        parent = node.parent
        if parent.type in ("fstring", "decorator", "assert_stmt", "import_from", "raise_stmt"):
            return False
        if parent.type == "param" and parent.annotation is not None and parent.children[0] is node:
            return False
        if (parent.type == "annassign" and parent.children[1] is node) or node is getattr(parent, "annotation", None):
            return False
        if parent.get_code(include_prefix=False).startswith(MEANINGLESS.get(parent.type, ())):
            return False
        node = parent
    return True


def compares_count(node: Any) -> bool:
    """True for a comparison of a length or a remainder with 0."""
    if node.type != "comparison" or node.children[-1].get_code().strip() != "0":
        return False
    left = node.children[0]
    text = left.get_code().strip()
    return (left.type == "term" and left.children[-2] == "%") or text.startswith("len(") or text.endswith(".ndim")


def mutants_at(file: str, places: list[tuple[Any, int, Any]]) -> Iterator[Mutant]:
    """The mutants at a position that are other programs."""
    source = Path(file).read_text()
    for operator, occurrence, node in places:
        try:
            changed = mutate_code(source, operator, occurrence)
            if changed is None or ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source)):
                continue
        except (SyntaxError, IndexError, AttributeError):  # cosmic-ray does not know every form of a statement
            continue
        old, new = source.splitlines(), changed.splitlines()
        parts = [
            (old[a:b], new[c:d], a)
            for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
            if tag != "equal"
        ]
        before, after = (" ".join(" ".join(line for part in parts for line in part[i]).split()) for i in (0, 1))
        yield Mutant(
            file, type(operator).__name__, scope_name(node), before, after, parts[0][2] + 1, *shown_in(node), changed
        )


def scopes(node: Any) -> Iterator[Any]:
    """The functions and classes around a node, from the inside."""
    while node is not None:
        if node.type in ("funcdef", "classdef"):
            yield node
        node = node.parent


def scope_name(node: Any) -> str:
    return ".".join(reversed([scope.name.value for scope in scopes(node)]))


def shown_in(node: Any) -> tuple[tuple[int, ...], bool]:
    """The lines of the statement around a node; if the import executes it, all of the function, class or file."""
    child, parent = node, node.parent
    while parent is not None and parent.type not in ("suite", "file_input", "funcdef", "classdef"):
        child, parent = parent, parent.parent
    around = next(scopes(parent), None)
    if around is None or around.type == "classdef" or parent.type == "funcdef":
        whole = around if around is not None else node.get_root_node()
        return tuple(range(whole.start_pos[0], whole.end_pos[0] + 1)), True
    statement: Any = child.children[0] if child.type == "simple_stmt" else child  # without the end of the line
    if statement.type in ("if_stmt", "for_stmt", "while_stmt", "with_stmt", "try_stmt"):
        return tuple(range(statement.start_pos[0], node.end_pos[0] + 1)), False
    return tuple(range(statement.start_pos[0], statement.end_pos[0] + 1)), False


def draw(files: list[str], n: int, seed: int) -> list[Mutant]:
    """Draw a mutant at each of n random positions, or at all if n is 0."""
    numbers = random.Random(seed)
    places = [(file, span, where) for file in files for span, where in positions(file).items()]
    numbers.shuffle(places)
    found: list[Mutant] = []
    for file, _, where in places:
        if n and len(found) == n:
            break
        numbers.shuffle(where)
        found += itertools.islice(mutants_at(file, where), 1)
    return found


def find(keys: set[tuple[str, ...]]) -> list[Mutant]:
    """The mutants of these keys that the files still have."""
    found = {}
    for file in {key[0] for key in keys}:
        if Path(file).exists():
            lines = [" ".join(line.split()) for line in Path(file).read_text().splitlines()]
            changed = {key[2] for key in keys if key[0] == file}
            for ((line, _), _), where in positions(file).items():
                if any(lines[line - 1] in text for text in changed):
                    found |= {mutant.key: mutant for mutant in mutants_at(file, where) if mutant.key in keys}
    return list(found.values())


def cases_of(mutant: Mutant, known: LineMap, budget: float) -> list[list[str]]:
    """The cases that may kill a mutant, as many as take `budget` seconds, in groups that are run one after the other.

    First those of the file of tests of the same name, or of the cheapest files, then those of the same folder, then all
    others. In a group one case of each function comes first, then three, then all; costly cases last.
    """
    possible = known.cases(mutant.file, mutant.lines) - {IMPORTED}
    unseen = (OF_SIGNATURES if mutant.imported else ()) + (IN_FORKS if mutant.file.startswith("src/commands") else ())
    possible |= {case for case in known.seconds if case.startswith(unseen)}
    cases = sorted(possible, key=lambda case: known.seconds[case])
    rank: dict[str, int] = defaultdict(int)
    order: dict[str, tuple[int, str]] = {}
    cost: dict[Any, float] = defaultdict(float)
    for case in cases:
        function, file = case.partition("[")[0], case.partition("::")[0]
        turn = 3 if known.seconds[case] > 2 else min(rank[function].bit_length(), 2)
        rank[function] += 1
        order[case] = (turn, file)
        cost[turn, file] += known.seconds[case]
        cost[file] += known.seconds[case]
    groups = group_files(mutant.file, {file: cost[file] for _, file in order.values()})
    cases.sort(key=lambda case: (groups[order[case][1]], order[case][0], cost[order[case]], order[case][1]))
    chosen: dict[int, list[str]] = defaultdict(list)
    total = 0.0
    for case in cases:
        total += known.seconds[case]
        if chosen and total > budget:
            break
        chosen[groups[order[case][1]]].append(case)
    return list(chosen.values())


def group_files(mutated: str, cost: dict[str, float]) -> dict[str, int]:
    """The group of each file of tests, given what its cases cost."""
    folder = Path("tests", *Path(mutated).parts[1:-1])
    own = str(folder / f"test_{Path(mutated).name}")
    near = sorted((file for file in cost if Path(file).is_relative_to(folder)), key=lambda file: cost[file])
    first = [own] if own in cost else near[:3]
    return {file: 0 if file in first else 1 if file in near else 2 for file in cost}
