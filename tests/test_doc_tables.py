"""The tables of docs/ are those of conf/ and the docstrings."""

from pathlib import Path

import pytest

from tests import doc_tables
from tests.doc_tables import COMMAND, DOCS, MARKER, Part, chosen, groups, header, papers, settings, stale_pages


def test_the_tables_are_up_to_date():
    stale = ", ".join(map(str, stale_pages()))
    assert not stale, f"out of date: {stale}; run `{COMMAND}` and commit the result"


def test_every_group_has_a_table():
    pages = (DOCS / "parts.md").read_text() + (DOCS / "experiments.md").read_text()
    assert {name for _, name, _ in MARKER.findall(pages)} == groups()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one part, and a page with its table."""
    monkeypatch.chdir(tmp_path)
    for folder in ("conf/net", "docs", "src/nets"):
        Path(folder).mkdir(parents=True)
    Path("conf/net/tiny.yaml").write_text(
        "# Lee et al. 2020: small; try net.width=8.\n_target_: src.nets.Tiny\nsize: ${data.size}\n"
        "bins: ${oc.select:a.b,256}\nwidth: 1.0e-4  # channels\nflags: [true, null]\npart: {_target_: torch.nn.ReLU}\n"
    )
    Path("src/nets/__init__.py").write_text("from src.nets.tiny import Tiny\n")
    Path("src/nets/tiny.py").write_text(
        'class Tiny:\n    r"""Maps |x| to :math:`y \\le 1`.\n\n'
        '    Source: Lee et al. 2020,\n    arXiv:2001.00001, eq. 2.\n    """\n'
    )
    Path("docs/page.md").write_text("# Nets\n\n<!-- table: net -->\n<!-- /table -->\nend\n")
    doc_tables.definition.cache_clear()
    doc_tables.parsed.cache_clear()
    yield tmp_path
    doc_tables.definition.cache_clear()
    doc_tables.parsed.cache_clear()


def test_a_row_holds_comment_class_source_and_defaults(project):
    row = doc_tables.filled(Path("docs/page.md")).splitlines()[5]
    assert row == (
        "| [`tiny`](../conf/net/tiny.yaml) | Small; try `net.width=8`.<br>[`Tiny`](../src/nets/tiny.py): "
        "Maps \\|x\\| to $y \\le 1$.<br>`torch.nn.ReLU` | "
        "Lee et al. 2020, [arXiv:2001.00001](https://arxiv.org/abs/2001.00001), eq. 2. | "
        "`bins=256` `width=0.0001` `flags=[true,null]` |"
    )


@pytest.mark.parametrize("change", ["conf/net/tiny.yaml", "conf/net/other.yaml", "src/nets/tiny.py"])
def test_a_change_makes_the_page_stale(project, change):
    page = Path("docs/page.md")
    assert stale_pages() == [page]
    page.write_text(doc_tables.filled(page))
    assert stale_pages() == [] and page.read_text().endswith("\nend\n")
    file = Path(change)
    file.write_text(file.read_text().replace("mall", "ittle").replace("Maps", "Takes") if file.exists() else "a: 1\n")
    doc_tables.definition.cache_clear()
    doc_tables.parsed.cache_clear()
    assert stale_pages() == [page]


def test_a_table_of_no_group_is_an_error(project):
    Path("docs/page.md").write_text("<!-- table: nets -->\n<!-- /table -->")
    with pytest.raises(FileNotFoundError, match=r"page\.md asks for the table of conf/nets"):
        stale_pages()


@pytest.mark.parametrize("name", ["mnist_edm", "mnist_finetune", "mixture_iddpm", "sine_vlb", "cifar_conditional"])
def test_the_parts_of_an_experiment_are_those_that_hydra_composes(name, composed_choices):
    choices = chosen(Path(f"conf/experiment/{name}.yaml"))
    assert choices.items() <= composed_choices(name).items()


@pytest.fixture
def composed_choices():
    from hydra import compose

    from tests.helpers.composing import hydra

    def choices(name: str) -> dict:
        with hydra():
            found = dict(compose("train", [f"experiment={name}"], return_hydra_config=True).hydra.runtime.choices)
        return found | {"framework": found.get("framework@_global_")}

    return choices


def test_papers_are_linked():
    assert papers("arXiv:2006.11239, eq. 4") == "[arXiv:2006.11239](https://arxiv.org/abs/2006.11239), eq. 4"
    assert papers("10.1145/1390156.1390294 (x)").startswith("[doi:10.1145/1390156.1390294](https://doi.org/10.1145/")


def test_settings_are_flat():
    node = {"_target_": "a.b", "x": {"y": 1, "z": [1.5, "${w}"]}, "s": "${seed}", "u": "https://" + "x" * 60}
    assert settings(node) == ["x.y=1", "x.z=[1.5,${w}]"]


def test_a_class_of_another_library_is_named_in_full():
    part = Part("torch.optim.AdamW")
    assert part.linked(Path("docs/a.md")) == "`torch.optim.AdamW`" and part.summary == part.source == ""


def test_names_in_a_comment_are_code(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "# @package _global_\n# mnist_ddpm with data.size=[8,8], 2 * x (eta=0); 1/2 or a_b.\n\n# not this\n"
    )
    assert header(file, cited=False) == "`mnist_ddpm` with `data.size=[8,8]`, 2 \\* x (`eta=0`); 1/2 or `a_b`."
