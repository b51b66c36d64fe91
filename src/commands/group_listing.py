"""Make Hydra list the config groups from one copy of its config sources."""

from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType

_list_anew = ConfigLoaderImpl.get_group_options


def share_group_listing() -> None:
    """Copy the config sources once for `--help`, instead of once for each group, which takes most of its time."""
    ConfigLoaderImpl.get_group_options = _list_shared  # type: ignore[assignment, method-assign]


def _list_shared(
    loader: ConfigLoaderImpl,
    group_name: str,
    results_filter: ObjectType | None = ObjectType.CONFIG,
    config_name: str | None = None,
    overrides: list[str] | None = None,
) -> list[str]:
    if config_name is not None or overrides:  # which may change the search path
        return _list_anew(loader, group_name, results_filter, config_name, overrides)
    shared: dict[str, Any] = vars(loader)
    if "listing" not in shared:
        _, shared["listing"] = loader._parse_overrides_and_create_caching_repo(None, [])
    return shared["listing"].get_group_options(group_name, results_filter)
