"""YAML that stands for more than it holds is refused by all that read it; anything else is read as before."""

import pytest
import yaml
from omegaconf import OmegaConf

from src.commands import yaml_limits
from src.utils.errors import UserError


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(yaml.SafeLoader, "get_single_node", yaml.SafeLoader.get_single_node)  # put back afterwards
    yaml_limits.limit_yaml()


def bomb(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)])


@pytest.mark.parametrize("read", [OmegaConf.load, lambda path: yaml.safe_load(path.open())])
def test_bombs(tmp_path, read):
    path = tmp_path / "config.yaml"
    for text in (bomb(9), "a: &a [*a]", "[" * 1000):
        path.write_text(text)
        with pytest.raises(UserError, match=f"{path} (expands to more than 20,000 values|is nested too deeply)"):
            read(path)


def test_anything_else():
    many = [0.5] * 20_001
    assert yaml.safe_load(str(many)) == many and yaml.safe_load("") is None
    assert OmegaConf.create("a: &a {b: [1, 2]}\nc: *a") == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}
    assert len(yaml.safe_load(bomb(3))["a2"]) == 9
