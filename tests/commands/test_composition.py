"""What is composed from memory is what Hydra composes from the files."""

import copy

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from omegaconf import OmegaConf

import src.runs.folders  # noqa: F401 - registers the resolvers that conf/ uses
from src.commands import composition
from src.utils.paths import CONF


@pytest.fixture(autouse=True)
def restored():
    """Hydra as it is before a command has changed it, and after the test as it was before."""
    before, hydra = Singleton.get_state(), GlobalHydra.instance()
    changed = CachingConfigRepository.load_config, ConfigLoaderImpl._load_single_config
    merged = ConfigLoaderImpl._compose_config_from_defaults_list
    others = CachingConfigRepository.__init__, defaults_list._create_interpolation_map
    hydra.clear()
    yield
    CachingConfigRepository.load_config, ConfigLoaderImpl._load_single_config = changed
    ConfigLoaderImpl._compose_config_from_defaults_list = merged
    CachingConfigRepository.__init__, defaults_list._create_interpolation_map = others
    Singleton.set_state(before)


def as_hydra_does():
    CachingConfigRepository.load_config = composition._look_up
    ConfigLoaderImpl._load_single_config = composition._embed
    ConfigLoaderImpl._compose_config_from_defaults_list = composition._merge
    CachingConfigRepository.__init__ = composition._copy_sources
    defaults_list._create_interpolation_map = composition._interpolation_map


def described(node):
    """All of a config: values before interpolation, types, flags, and what they may become."""
    metadata = copy.copy(node._metadata)
    if OmegaConf.is_dict(node) or OmegaConf.is_list(node):
        metadata.resolver_cache = None
        content = node._content
        if isinstance(content, dict):
            return type(node), metadata, {key: described(value) for key, value in content.items()}
        if isinstance(content, list):
            return type(node), metadata, [described(value) for value in content]
        return type(node), metadata, content
    return type(node), metadata, node._value()


WORDS = [
    ("train", []),
    ("train", ["experiment=mnist_conditional", "trainer=cpu", "seed=3", "hydra.run.dir=nowhere"]),
    ("train", ["~experiment", "net=dit", "+net.more=1", "plan=h100", "hydra/job_logging=none"]),
    ("train", ["framework=edm", "callbacks=quality", "sweep=frameworks", "hydra.job.chdir=true"]),
    ("sample", ["task=inpaint", "sampler=heun", "run=nowhere"]),
    ("evaluate", ["metrics=[denoising,samples]", "run=nowhere"]),
]


@pytest.mark.parametrize(("name", "words"), WORDS)
def test_the_config_is_the_same(name, words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        as_hydra_does()
        expected = described(compose(name, words, return_hydra_config=True))
        composition.share_compositions()
        for _ in range(2):  # read, then from memory
            cfg = compose(name, words, return_hydra_config=True)
            assert described(cfg) == expected
            with pytest.raises(Exception, match="not in struct"):
                cfg.unknown = 1
            OmegaConf.update(cfg, "seed", 12345)  # must not reach the next one


def test_a_changed_file_is_read_again(tmp_path):
    composition.share_compositions()
    (tmp_path / "part").mkdir()
    (tmp_path / "main.yaml").write_text("defaults: [_self_, part: a]\n")
    said = []
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        for text in ("x: 1", "x: 2", "x: ${y}\ny: [1]", "defaults: [b]\nx: 3", "x: 1"):
            (tmp_path / "part" / "a.yaml").write_text(text)
            (tmp_path / "part" / "b.yaml").write_text("z: 4")
            said.append(OmegaConf.to_container(compose("main"))["part"])
        (tmp_path / "part" / "a.yaml").unlink()
        with pytest.raises(HydraException, match="part/a"):
            compose("main")
    assert said == [{"x": 1}, {"x": 2}, {"x": "${y}", "y": [1]}, {"z": 4, "x": 3}, {"x": 1}]


def test_a_choice_that_refers_to_another(tmp_path):
    composition.share_compositions()
    for group in ("net", "loss"):
        (tmp_path / group).mkdir()
        for name in ("a", "b"):
            (tmp_path / group / f"{name}.yaml").write_text(f"is: {name}")
    (tmp_path / "main.yaml").write_text("defaults: [_self_, net: a, loss: '${net}']\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert [compose("main", words).loss["is"] for words in ([], ["net=b"], [])] == ["a", "b", "a"]


@pytest.mark.parametrize("words", [["net=unett"], ["nett=unet"], ["net.width=[1"], ["+seed=1"]])
def test_mistakes_are_the_same(words):
    said = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for change in (as_hydra_does, composition.share_compositions, composition.share_compositions):
            change()
            with pytest.raises(HydraException) as raised:
                compose("train", words)
            said.append(str(raised.value))
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("kind", [ObjectType.CONFIG, ObjectType.GROUP])
def test_the_groups_are_the_same(kind):
    listed = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for change in (as_hydra_does, composition.share_compositions):
            change()
            listed.append([loader.get_group_options(group, kind) for group in ("", "sampler", "hydra/launcher")])
    assert listed[0] == listed[1] and listed[0][0]
