"""Sphinx settings of `make docs`: the guides and the API reference, built without a network."""

import re
from typing import Any

from src import __version__

project, version, author = "diffusion-lab", __version__, "diffusion-lab"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
root_doc = "docs/site/index"
include_patterns = ["README.md", "CHANGELOG.md", "docs/*.md", "docs/history/*.md", "docs/site/*.md"]
html_title = f"diffusion-lab {__version__}"
html_theme_options = {"fixed_sidebar": True, "page_width": "70rem"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
# Links into src/, conf/ and tests/ become downloads; blocks of the pages are in Python, YAML and shell.
suppress_warnings = ["toc.not_included", "misc.highlighting_failure"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "imported-members": True, "undoc-members": False}
autodoc_inherit_docstrings = False  # those of Lightning refer to its own pages
napoleon_use_ivar = True
default_role = "code"

# Stars of shapes (B, C, *S), of arguments and powers, which reStructuredText would take for emphasis.
KEPT = re.compile(r"(:math:`[^`]*`|``[^`]*``|`[^`]*`)")


def escape_stars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would read as markup, outside code and formulas."""
    in_math = False
    for i, line in enumerate(lines):
        in_math = line.startswith(".. math::") or (in_math and (not line.strip() or line.startswith(" ")))
        if not in_math:
            parts = KEPT.split(line)
            lines[i] = "".join(p if j % 2 else re.sub(r"[*|]|_(?=\W|$)", r"\\\g<0>", p) for j, p in enumerate(parts))


def setup(app: Any) -> None:
    """Register the event; first, since napoleon makes markup of its own."""
    app.connect("autodoc-process-docstring", escape_stars, priority=100)
