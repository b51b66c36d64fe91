"""README and docs/ name settings, choices, files and modules that exist."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.doc_tables import CONF, LOADER, MARKER, groups

PAGES = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
# Names that a reader makes: files of examples, and placeholders in capitals.
EXAMPLES = {"conf/schedule/power.yaml", "conf/metrics/brightness.yaml", "conf/GROUP"}
OF_FILES = {"test", "rows.csv"}  # conditions that a file or the test data give
EXAMPLE_CHOICES = {*OF_FILES, "power", "brightness", "convnet", "midpoint", "capped", "first_guess", "NAME", "CHOICE"}
EXAMPLE_KEYS = {"schedule.power"}
PYTHON = {"cond", "conf", "start", "times", "dim", "dim_mults", "weights_only", "first_time"}  # arguments of functions
PYTHON |= {"trust_remote_code", "guidance_scale", "class_labels", "num_inference_steps", "set_alpha_to_one"}
QUERY = {"wait", "text"}  # in the addresses of requests to the service
ASKED = {
    f"condition.{name}" for name in ("label", "vector", "image", "text")
}  # of a run, by the names of its conditions
CHOICES_OF_HYDRA = {"hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler"}
SHELL = re.compile(r"```(?:sh|bash)\n(.*?)```", re.S)
BLOCK = re.compile(r"```.*?```", re.S)
SETTING = re.compile(r"(?<![\w./$+~-])([a-z_][\w./]*)=([^\s`|]*)")
GLOBAL = ("experiment", "debug", "sweep", "framework")  # groups whose files set keys at the root


def code_of(page: Path) -> str:
    """The shell blocks and the words set as code of a page, without generated tables and names of other libraries."""
    text = MARKER.sub("", page.read_text())
    shell = "\n".join(SHELL.findall(text))
    if page.stem == "denoising_diffusion_pytorch":
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.M)
    return shell + "\n" + "\n".join(re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)))


def flat(node: Any, prefix: str = "") -> set[str]:
    """The dotted keys of a config, inner ones included."""
    if not isinstance(node, dict):
        return set()
    keys = {f"{prefix}{key}" for key in node}
    return keys.union(*(flat(value, f"{prefix}{key}.") for key, value in node.items()))


@cache
def known() -> tuple[set[str], dict[str, set[str]]]:
    """All keys of conf/, and the choices of each group."""
    keys: set[str] = set()
    choices: dict[str, set[str]] = {name: {p.stem for p in (CONF / name).glob("*.yaml")} for name in groups()}
    for file in CONF.glob("*.yaml"):
        keys |= flat(yaml.load(file.read_text(), LOADER))
    for group in groups():
        for file in (CONF / group).glob("*.yaml"):
            keys |= flat(yaml.load(file.read_text(), LOADER), "" if group in GLOBAL else f"{group}.")
    return keys, choices


def unknown(key: str, value: str) -> bool:
    keys, choices = known()
    if key in EXAMPLE_KEYS | PYTHON | QUERY | ASKED:
        return False
    if key in choices:
        named = set(re.sub(r"[\[\]'\"]", "", value).split(",")) - EXAMPLE_CHOICES
        free = {"true", "false", "null", "", "..."}
        return bool(named - choices[key] - free) and "FOLDER" not in value and not value.startswith("$")
    key = key.removeprefix("new_") if key.startswith("new_data.") else key  # of src.retrain
    return key not in keys and key.replace("/", ".") not in CHOICES_OF_HYDRA and not key.startswith("hydra")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_settings_exist(page):
    found = {f"{key}={value}" for key, value in SETTING.findall(code_of(page)) if unknown(key, value)}
    assert found == set()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_and_modules_exist(page):
    text = page.read_text()
    files = set(re.findall(r"\b(?:src|tests|conf)/[\w./*-]*\w", text)) - EXAMPLES
    assert {name for name in files if not list(Path().glob(name))} == set()
    for name in set(re.findall(r"\b(?:src|tests)(?:\.[a-z_]\w*)+", text)):
        path = Path(*name.split("."))
        modules = (path.with_suffix(".py"), path, path.parent.with_suffix(".py"), path.parent / "__init__.py")
        assert any(m.exists() for m in modules), name


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_sections_that_are_linked_exist(page):
    for target, section in re.findall(r"\]\(([^)#\s]*\.md)?#([\w-]+)\)", page.read_text()):
        linked = page.parent / target if target else page
        assert section in sections(linked), f"{target}#{section}"


def sections(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [("net=unet,dit", False), ("net=unett", True), ("net.width=8", False), ("net.widht=8", True), ("seed=1,2", False)],
)
def test_a_wrong_setting_is_found(setting, wrong):
    assert unknown(*setting.split("=")) is wrong
