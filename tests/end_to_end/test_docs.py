"""The pages in docs/: their Python runs, their links lead somewhere."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.doc_notebook import NOTEBOOK, cells, notebook
from tests.helpers.tiny import QUICK

PAGES = sorted(Path("docs").glob("*.md"))


def test_the_core_in_python(command, tmp_path, tiny, monkeypatch, tiny_mnist):
    """Its blocks in order, as one script, on a run that is hardly trained."""
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path))
    words = [f"data.root={tiny_mnist}", "data.sha256=null", "data.offline=error", "data.val_size=16"]
    done = command("train", "experiment=mnist_ddpm", *tiny, *words, "data.batch_size=16")
    assert done.code == 0, done.error
    script = "\n".join(re.findall(r"```python\n(.*?)```", Path("docs/core.md").read_text(), re.S))
    names: dict = {}
    exec(compile(script, "docs/core.md", "exec"), names)
    assert names["x"].shape == (4, 1, 28, 28) and names["x"].isfinite().all()
    terms = names["terms"]
    assert torch.allclose(terms["total"], terms["prior"] + terms["kl"].sum(1)) and (terms["total"] > 0).all()
    assert names["result"].log_density.isfinite().all() and names["result"].nfe > 10
    assert names["x_bright"].mean() > names["x"].mean() + 0.01


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    """The parts of docs/extending.md, written as it says to a folder, which is where commands start."""
    page = Path("docs/extending.md").read_text()
    (tmp_path / "my_parts.py").write_text("\n\n".join(re.findall(r"```python\n(.*?)```", page, re.S)))
    files = re.findall(r"```yaml\n# (my_conf/(\w+)/(\w+)\.yaml)\n(.*?)```", page, re.S)
    assert len(files) == page.count("```yaml")
    for file, _, _, text in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    np.save(tmp_path / "fields.npy", np.random.default_rng(0).normal(size=(60, 2, 16, 16)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))
    yield {group: name for _, group, name, _ in files}  # the last of each group
    sys.modules.pop("my_parts", None)


def test_own_parts_work_together(command, own_parts, tiny):
    """All of the page in one run, which is drawn from; the logger prints."""
    task = own_parts.pop("task")
    words = [f"{group}={name}" for group, name in own_parts.items()]
    small = [*tiny, "data.batch_size=8", "sampler.steps=3"]
    done = command("train", "--config-dir", "my_conf", "experiment=digits_ddpm", *words, *small)
    assert done.code == 0, done.error
    assert "val/loss_ema" in done.out and done.out.count("trust=true") == 3  # in the commands to run next
    settings = yaml.safe_load(Path("outputs/latest/config.yaml").read_text())
    of_the_page = [node["_target_"] for node in (settings[group] for group in own_parts) if "_target_" in node]
    assert sum(target.startswith("my_parts.") for target in of_the_page) == len(own_parts) - 2
    for words in ([], ["--config-dir", "my_conf", f"task={task}"], ["guidance=cfg"]):
        done = command("sample", *words, "run=latest", "trust=true", "n=2", "out=drawn")
        assert done.code == 0, done.error
        assert np.load("drawn/samples.npz")["x"].shape == (2, 2, 16, 16)


def test_an_own_loss_of_a_flow_map(command, tmp_path, monkeypatch):
    page = Path("docs/flow_maps.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    ((file, text),) = re.findall(r"```yaml\n# (\S+)\n(.*?)```", page, re.S)
    (line,) = (line for line in page.splitlines() if "--config-dir" in line)
    (tmp_path / "my_losses.py").write_text(code)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))
    small = ["debug=two_steps", "trainer=cpu", "net.width=8", "net.depth=1", "callbacks.sample_images=null"]
    done = command("train", *shlex.split(line)[3:], *small, "data.n=200", "data.batch_size=20", "logger=csv")
    assert done.code == 0, done.error
    assert yaml.safe_load(Path("outputs/latest/config.yaml").read_text())["loss"]["_target_"] == "my_losses.Midpoint"


@pytest.mark.slow
def test_an_own_sampler_is_compared_on_own_data(command, own_parts, tiny):
    """Fields of two axes, which are no images and have no features."""
    conf = ["--config-dir", "my_conf"]
    small = [*tiny, "data.batch_size=8"]
    done = command("train", *conf, "experiment=digits_ddpm", "data=fields", "net=convnet", *small)
    assert done.code == 0, done.error
    words = ["run=latest", "trust=true", "samplers=[midpoint,ddim]", "steps=[2,3]", "n=6"]
    done = command("compare", *conf, *words)
    assert done.code == 0, done.error
    lines = [line for line in done.out.splitlines() if "midpoint" in line or "ddim" in line]
    assert len(lines) >= 4 and "sliced" in done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "group",
    [
        "net",
        "condition",
        "diffusers",
        "loss",
        "schedule",
        "parameterization",
        "weighting",
        "time_sampler",
        "noise_sampler",
        "sampler",
        "optimizer",
        "lr_schedule",
        "logger",
        "data",
    ],
)
def test_each_own_part(command, own_parts, tiny, group):
    """Alone among the project's own."""
    own_parts |= {"diffusers": "diffusers_unet"}
    conditional = [f"{name}={own_parts[name]}" for name in ("net", "condition") if name != group]
    more = {"data": ["net=convnet"], "net": conditional, "condition": conditional}.get(group, [])
    words = [f"{group.replace('diffusers', 'net')}={own_parts[group]}", *more, *tiny, "data.batch_size=8"]
    done = command("train", "--config-dir", "my_conf", "experiment=digits_ddpm", *words)
    assert done.code == 0, done.error


def test_a_teacher(command, own_parts, tiny):
    """A student learns from the run before it, which must be named."""
    words = ["--config-dir", "my_conf", "experiment=digits_ddpm", "net=convnet", *tiny, "data.batch_size=8"]
    assert command("train", *words).code == 0
    teacher = Path("outputs/latest").resolve()
    done = command("train", *words, "loss=distilled", f"loss.teacher.run={teacher}", "trust=true")
    assert done.code == 0, done.error
    done = command("train", *words, "loss=distilled")
    assert done.code == 1 and "loss.teacher.run" in done.error and "Traceback" not in done.error


def commands(page: Path) -> list[list[str]]:
    """The words of each `python -m src.` line in a page's blocks."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)).replace("\\\n", " ")
    return [shlex.split(line, comments=True)[2:] for line in blocks.splitlines() if line.startswith("python -m src.")]


def quick(name: str, words: list[str]) -> list[str]:
    """What makes a command quick that does not train, without settings of measures that it leaves out."""
    chosen = next((w for w in words if w.startswith("metrics=")), "all")
    return [
        w for w in QUICK.get(name, []) if not w.startswith("metrics.") or chosen == "all" or w.split(".")[1] in chosen
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=str)
def test_its_commands(command, page, tiny, tiny_images, tiny_mnist, tmp_path, monkeypatch):
    """In their order, since some sample from the run before; each made small by the words that come last."""
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path))
    for module, *words in commands(page):
        name = module.removeprefix("src.")
        small = quick(name, words)
        small += (
            ["metrics.likelihood.n=2", "metrics.likelihood.tolerance=0.1"] if "metrics=[likelihood]" in words else []
        )
        if name == "train":
            small = [*tiny, "data.batch_size=8", "trainer.max_steps=2", "sampler.steps=2"]
            mnist, points = (any(kind in word.lower() for word in words) for kind in ("mnist", "mixture"))
            of_mnist = [f"data.root={tiny_mnist}", "data.sha256=null", "data.offline=error", "data.val_size=16"]
            small += of_mnist if mnist else [] if points else ["data.size=[16]"]
        if "data.root=FOLDER" in words:
            small += [f"data.root={tiny_images}", "data.size=[16,16]"]
        done = command(name, *words, *small)
        assert done.code == 0, f"{' '.join(words)}\n{done.error}"


@pytest.mark.parametrize("page", [Path("README.md"), *sorted(Path("docs").rglob("*.md"))], ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme():
    readme = Path("README.md").read_text()
    assert [p for p in PAGES if f"({p})" not in readme] == []


def test_the_notebook_is_the_page():
    assert NOTEBOOK.read_text() == notebook(), "run python -m tests.doc_notebook"
    blocks = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    assert len(blocks) == 8 and all(len(block.splitlines()) < 10 for block in blocks)


@pytest.mark.slow
def test_the_notebook(tmp_path, monkeypatch):
    """Its cells in order, with two steps of training."""
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path))
    short = '"debug=two_steps", "trainer=cpu", "logger=csv", "callbacks.sample_images=null", "data.batch_size=16"'
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(cell["source"]).replace('"trainer.max_steps=2000"', short)
            exec(compile(code, cell["id"], "exec"), names)
    assert names["images"].shape == (16, 1, 8, 8) and 0 <= names["images"].min() <= names["images"].max() <= 1
    assert names["values"]["frechet_distance"] > 0 and names["run"].config().net.width == 24
    assert names["restored"].shape == names["x"].shape and names["points"].shape == (100, 2)
