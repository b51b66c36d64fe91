"""Fill the tables of docs/ from conf/ and the docstrings: `python -m tests.doc_tables --write`, or `make docs`.

A page asks for the table of a group of conf/ with `<!-- table: GROUP -->` and `<!-- /table -->`. A row holds the choice
linked to its YAML, the header comment of the YAML, the first sentence and the source of the class that it names, and
its settings with their defaults. Nothing is imported from src/: its files are parsed.
"""

import argparse
import ast
import difflib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CONF, DOCS = Path("conf"), Path("docs")
COMMAND = "make docs"
GLUE = ("hydra.utils.get_class", "???")  # targets that say nothing of the part
MARKER = re.compile(r"(<!-- table: ([\w/]+) -->\n).*?(<!-- /table -->)", re.S)
SENTENCE = re.compile(r"(?<=[\w)\]`'\"])\.\s+(?=[A-Z:`\[])")
CITATION = re.compile(r"^[A-Z][\w\s,.-]*? (?:19|20)\d\d(?:, (?:19|20)\d\d)*(?: \([^)]*\))?: ")  # Ho et al. 2020: ...
# Words of a comment to be set as code: settings (data.root=FOLDER), names with underscores and dotted ones.
CODE = re.compile(r"(?<![\w`$/.])(?:[\w./]+=[\w.\[/'$-](?:[^\s;()`]*[\w\]'/])?|\w+_\w+(?:\.\w+)*)(?![\w`])")
LONGEST = 60  # characters of a setting; URLs and digests are left to the YAML
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def filled(page: Path) -> str:
    """The text of a page with all of its tables as they should be."""
    return MARKER.sub(lambda m: f"{m[1]}{table(m[2], page)}\n{m[3]}", page.read_text())


def stale_pages() -> list[Path]:
    return [page for page in sorted(DOCS.rglob("*.md")) if filled(page) != page.read_text()]


def groups() -> set[str]:
    """The groups of conf/ that this project defines; those of hydra/ are described by Hydra."""
    return {p.name for p in CONF.iterdir() if p.is_dir() and p.name != "hydra"}


def table(group: str, page: Path) -> str:
    """The Markdown table of a group, with links relative to the page."""
    files = sorted((CONF / group).glob("*.yaml"))
    if not files:
        raise FileNotFoundError(f"{page} asks for the table of {CONF / group}, which has no YAML files")
    last = "parts" if group in ("experiment", "framework") else "settings"
    rows = [["choice", "description", "source", last], ["---"] * 4]
    rows += [row(file, page) for file in files]
    if not any(r[2] for r in rows[2:]):
        rows = [[*r[:2], r[3]] for r in rows]
    if not any(r[-1] for r in rows[2:]):
        rows = [r[:-1] for r in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(file: Path, page: Path) -> list[str]:
    """Choice, description, source and settings (or parts) of one YAML."""
    config = yaml.load(file.read_text(), LOADER) or {}
    nodes = {key: node for key, node in config.items() if isinstance(node, dict) and "_target_" in node}
    targets = [node["_target_"] for node in [config, *nodes.values()] if "_target_" in node]
    classes = [Part(target) for target in targets if target not in GLUE]
    source = "; ".join(dict.fromkeys(c.source for c in classes if c.source))
    lines = describe(header(file, cited=bool(source)), classes, page)
    if "_global_" in file.read_text():
        last = " ".join(f"`{group}={choice}`" for group, choice in sorted(shown(file).items()))
    else:
        last = " ".join(f"`{text}`" for text in settings(config))
    return [f"[`{file.stem}`]({link(file, page)})", "<br>".join(map(escape, lines)), escape(source), escape(last)]


def describe(comment: str, classes: list["Part"], page: Path) -> list[str]:
    """The header comment of the YAML, unless the class says the same, and a line for each class."""
    said = [f"{c.linked(page)}: {c.summary}" if c.summary else c.linked(page) for c in classes]
    if len(classes) == 1 and difflib.SequenceMatcher(None, comment.lower(), classes[0].summary.lower()).ratio() > 0.75:
        return said
    return [comment, *said] if comment else said


def header(file: Path, cited: bool) -> str:
    """The comment at the head of a YAML, without the citation that it begins with where the class has the source."""
    lines: list[str] = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line[1:].strip())
    text = re.sub(rf"^{re.escape(str(file))}:\s*", "", " ".join(lines))
    if cited:
        text = CITATION.sub("", text)
    if re.match(r"[a-z]+(?:-[a-z]+)?[\s,:;]", text):
        text = text[0].upper() + text[1:]
    text = papers(CODE.sub(r"`\g<0>`", re.sub(r" \* ", r" \* ", text)))
    return text if not text or text.endswith((".", ":", "?")) else f"{text}."


def settings(node: dict[str, Any], prefix: str = "") -> list[str]:
    """KEY=DEFAULT of a config, as typed behind the name of its group.

    Those taken from elsewhere by interpolation are left out, unless they have a default.
    """
    found = []
    for key, value in node.items():
        name = f"{prefix}.{key}" if prefix else key
        if key in ("_target_", "_partial_", "defaults", "_convert_"):
            continue
        if isinstance(value, dict):
            found += settings(value, name)
        elif isinstance(value, str) and value.startswith("${"):
            default = re.fullmatch(r"\$\{oc\.select:[\w.]+,([\w.-]+)\}", value)
            found += [f"{name}={default[1]}"] if default and default[1] != "null" else []
        else:
            found.append(f"{name}={plain(value)}")
    return [text for text in found if len(text) < LONGEST]


def plain(value: Any) -> str:
    """A value as one types it on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(plain, value))}]"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def chosen(file: Path, framework: str | None = None) -> dict[str, str]:
    """The choices of an experiment or framework: of each group the outermost override wins, as in Hydra."""
    choices: dict[str, str] = {}
    included = []
    for entry in (yaml.load(file.read_text(), LOADER) or {}).get("defaults", []):
        if isinstance(entry, str):
            included += [entry] if entry != "_self_" else []
            continue
        (key, choice), *_ = entry.items()
        if "@condition.parts." in key:  # one of several: the group's own choice is `combined`
            continue
        group = key.removeprefix("override ").removeprefix("optional ").partition("@")[0].lstrip("/")
        if group == "framework":
            framework = framework or choice
            included += [] if key.startswith("override ") else [group]
        elif not group.startswith("hydra"):
            choices.setdefault(group, str(choice))
    for name in reversed(included):
        other = CONF / "framework" / f"{framework}.yaml" if name == "framework" else file.with_name(f"{name}.yaml")
        choices = chosen(other, framework) | choices
    return choices | ({"framework": framework} if framework else {})


def shown(file: Path) -> dict[str, str]:
    """The choices without those that its framework makes anyway."""
    choices = chosen(file)
    implied = chosen(CONF / "framework" / f"{choices['framework']}.yaml") if "framework" in choices else {}
    return {group: choice for group, choice in choices.items() if implied.get(group) != choice}


class Part:
    """What a `_target_` names: its file, and from its docstring the first sentence and the source.

    Attributes:
        target: dotted path.
        name: without the module.
        file: that defines it; None where it is not of this project.
        summary: first sentence, in Markdown.
        source: papers, in Markdown.
    """

    def __init__(self, target: str):
        self.target = target
        module, _, self.name = target.rpartition(".")
        self.file, docstring = definition(module, self.name)
        first = SENTENCE.split(docstring.split("\n\n")[0], maxsplit=1)[0].rstrip(".")
        self.summary = f"{markdown(first)}." if first else ""
        cited = re.search(r"^Sources?: (.*?)(?:\n\n|\Z)", docstring, re.S | re.M)
        self.source = papers(markdown(cited[1])) if cited else ""

    def linked(self, page: Path) -> str:
        return f"[`{self.name}`]({link(self.file, page)})" if self.file else f"`{self.target}`"


@cache
def definition(module: str, name: str) -> tuple[Path | None, str]:
    """The file that defines a class or function of src/, followed through re-exports, and its docstring."""
    path = Path(*module.split("."))
    file = next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.exists()), None)
    if file is None or not module.startswith("src"):
        return None, ""
    for node in parsed(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return file, ast.get_docstring(node) or ""
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            return definition(".".join([*base, *([node.module] if node.module else [])]), original)
    return file, ""


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def markdown(text: str) -> str:
    """Text of a docstring in Markdown, on one line."""
    text = re.sub(r":math:`([^`]*)`", r"$\1$", " ".join(text.split()))
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")


def papers(text: str) -> str:
    """Links of arXiv numbers and DOIs."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"(?<![\w/])(10\.\d{4,}/[^\s,;)]*\w)", r"[doi:\1](https://doi.org/\1)", text)


def escape(text: str) -> str:
    return text.replace("|", r"\|")


def link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target, page.parent)).as_posix()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="rewrite the pages; otherwise only name the outdated ones")
    args = parser.parse_args()
    pages = stale_pages()
    for page in pages:
        if args.write:
            page.write_text(filled(page))
        print(f"{page}: {'written' if args.write else 'out of date'}")
    if not pages:
        print("all tables are up to date")
    raise SystemExit(0 if args.write or not pages else 1)


if __name__ == "__main__":
    main()
