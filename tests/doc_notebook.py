"""The notebook docs/python.ipynb, made of docs/python.md: `python -m tests.doc_notebook` renews it."""

import json
import re
from pathlib import Path
from typing import Any

PAGE, NOTEBOOK = Path("docs/python.md"), Path("docs/python.ipynb")
BLOCK = re.compile(r"```python\n(.*?)\n```\n", re.S)


def cells() -> list[dict[str, Any]]:
    """The text and the blocks of the page in turn, without outputs."""
    texts = BLOCK.split(PAGE.read_text())
    found = []
    for i, text in enumerate(map(str.strip, texts)):
        kind: dict[str, Any] = (
            {"cell_type": "code", "execution_count": None, "outputs": []} if i % 2 else {"cell_type": "markdown"}
        )
        if text:
            found.append(kind | {"id": f"cell-{i}", "metadata": {}, "source": text.splitlines(keepends=True)})
    return found


def notebook() -> str:
    """The text of the notebook."""
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    content = {"cells": cells(), "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook())
