"""Groups listed from one copy of the config sources are those that Hydra lists."""

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.singleton import Singleton

from src.commands.group_listing import _list_anew, _list_shared
from src.utils.paths import CONF


@pytest.mark.parametrize("kind", [ObjectType.CONFIG, ObjectType.GROUP])
def test_the_listing_is_the_same(kind):
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        groups = ["", *_list_anew(loader, "", ObjectType.GROUP), "hydra/launcher", "hydra/sweeper"]
        assert {"sampler", "condition"} < set(groups)
        for group in groups:
            assert _list_shared(loader, group, kind) == _list_anew(loader, group, kind)
    Singleton.set_state(before)
