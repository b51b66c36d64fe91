"""Resolve the config of a run: what Hydra composed, completed by what the command line and a resumed run imply."""

from typing import Any, cast

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from src.runs.check_config import check_config, muted
from src.runs.run import Run
from src.utils.errors import UserError, config_errors
from src.utils.override_syntax import read
from src.utils.paths import CONF

# Keys of how a run is started, which are no settings of the run itself.
LAUNCH_KEYS = ("resume", "auto_resume", "resume_changed_data", "trust", "sweep", "plan")

# Groups whose choice does something only where another part takes it, as `${group}`.
TAKEN_BY_PARTS = ("variance", "weighting", "time_embedding", "time_grid", "clip")


def resolve_config(cfg: DictConfig, run: Run) -> tuple[DictConfig, list[str]]:
    """The completed config, in which only precision=auto is left, and the overrides that belong to the run.

    Args:
        cfg: the config that Hydra composed.
        run: the folder that Hydra made for the run, or that of the run to resume.

    Raises:
        UserError: for settings that contradict each other.
    """
    given = HydraConfig.get().overrides.task
    overrides = [word for word in given if read(word).key.split(".")[0] not in LAUNCH_KEYS]
    if any(read(word).key == "paths.run" for word in overrides):
        raise UserError("paths.run= cannot be set, since it is the run folder; set hydra.run.dir=FOLDER instead")
    drop_incompatible_keys(cfg, overrides)
    if cfg.get("pretrained") is not None and cfg.resume is None:
        take_pretrained(cfg, overrides)
    if cfg.resume is not None:
        overrides = overrides[len(run.overrides()) :]
        cfg = resumed_config(run.config(), cfg, overrides)
    else:
        resolve_data(cfg)
        if cfg.teacher is not None:
            cfg.teacher = str(Run.find(str(cfg.teacher), cfg.paths.outputs).path)  # latest is this run when it resumes
    resolve_length(cfg, overrides)
    return cfg, overrides


def resolve_data(cfg: DictConfig) -> None:
    """Put what follows from the data themselves, such as their shape in the header of a file, into their settings.

    Raises:
        UserError: for settings of such data that are wrong, and for data that cannot be used.
    """
    from src.data.base import DataModule  # imports Lightning, which other commands that use this file do not need

    try:
        with muted("hydra.utils"):  # it also logs what it raises
            resolve = cast(Any, get_class(str(cfg.data._target_))).resolve
    except Exception:  # no class of data: check_config reports the reason, or an object is given
        return
    if resolve.__func__ is cast(Any, DataModule.resolve).__func__:
        return
    settings: Any = OmegaConf.to_container(cfg.data, resolve=True)
    check_config({"data": settings | ({"batch_size": 1} if settings.get("batch_size") == "auto" else {})})
    with config_errors("data"):
        found = resolve({key: value for key, value in settings.items() if not key.startswith("_")})
    for key, value in found.items():
        cfg.data[key] = value


def take_pretrained(cfg: DictConfig, overrides: list[str]) -> None:
    """Put the parts of a pretrained model in the place of those of the experiment that the command line does not name.

    Raises:
        UserError: if it cannot be read, is of data of another shape, or the command line names another net.
    """
    with config_errors("pretrained"):
        source = instantiate(cfg.pretrained)
    source.check_shape((cfg.data.channels, *cfg.data.size))
    named = {read(override).key.split(".")[0]: read(override).key for override in overrides}
    if "net" in named:
        raise UserError(
            f"{named['net']}= cannot be given with init_from={cfg.init_from}, whose network is taken as it is"
        )
    with open_dict(cfg):
        for part, node in source.parts().items():
            if part not in named:
                cfg[part] = node


def without_effect(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """The overrides of parts that no part of this config takes, such as variance=fixed_large with sampler=ddim.

    Args:
        cfg: the config as composed, with its interpolations.
        overrides: the overrides of the command line.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    unused = []
    for override in overrides:
        group = read(override).key.split(".")[0]
        if group not in TAKEN_BY_PARTS or (
            group == "variance" and getattr(get_class(cfg.variance._target_), "outputs", 1) > 1
        ):
            continue  # a learned variance is an output of the net
        others = str({key: value for key, value in plain.items() if key != group})
        if f"${{{group}}}" not in others and f"${{{group}." not in others:
            unused.append(override)
    return unused


def resumed_config(saved: DictConfig, cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The saved config of a run, with the overrides of this command line."""
    with open_dict(saved):
        saved.update({key: cfg[key] for key in cfg if key not in saved})
    for override in overrides:
        key = read(override).key
        if key in ("experiment", "framework", "debug", "ema", "ema.sigma_rel"):
            raise UserError(f"{key}= cannot be given with resume=, which goes on with the run's own config")
        with open_dict(saved):
            OmegaConf.update(saved, key, OmegaConf.select(cfg, key), merge=False)
    return saved


def drop_incompatible_keys(cfg: DictConfig, overrides: list[str]) -> None:
    """Where the command line exchanges a part, forget what the experiment says of it that the new one does not know.

    `experiment=mnist_ddpm net=mlp` must not fail because the experiment sets net.channel_mults of its U-Net. Nor are
    its width and patch size good ones for another net, which takes its own; a rate or a number of steps is kept.
    """
    named = {word.key: word.value for word in map(read, overrides) if "@" not in word.head}
    chosen = {k: v for k, v in named.items() if k in cfg and (CONF / k).is_dir()}
    if named.get("framework"):
        reset_framework_parts(cfg, str(named["framework"]), overrides)
    if not chosen:
        return
    experiment = [word for word in overrides if read(word).key == "experiment"]
    other_net = "net" in chosen and compose_choices(experiment).net._target_ != cfg.net._target_
    for group, choice in chosen.items():
        own = group_defaults(group, str(choice))
        with open_dict(cfg):
            for key in list(cfg[group] or {}):
                if any(name.startswith(f"{group}.{key}") for name in named):
                    continue
                if key not in own:
                    del cfg[group][key]
                elif group == "net" and other_net and not OmegaConf.is_interpolation(cfg[group], key):
                    cfg[group][key] = own[key]


def reset_framework_parts(cfg: DictConfig, framework: str, overrides: list[str]) -> None:
    """Replace the experiment's settings of a framework's parts by the framework's own.

    `experiment=mnist_ddpm framework=edm` must not train EDM with the experiment's mean of another time sampler, nor
    `framework=ddpm sampler=heun` take the framework's 1,000 steps for its other sampler.
    """
    named = {word.key: word.value for word in map(read, overrides)}
    file: Any = OmegaConf.to_container(OmegaConf.load(CONF / "framework" / f"{framework}.yaml"))
    parts = {name.split("/")[-1]: part for entry in file["defaults"] for name, part in entry.items()}
    before: Any = compose_choices([word for word in overrides if read(word).key == "experiment"])
    for group, part in parts.items():
        numbers = file.get(group, {})
        old: Any = OmegaConf.to_container(before[group])
        own: Any = OmegaConf.to_container(group_defaults(group, str(named.get(group, part))))
        if group in named:
            old = numbers  # of a part that the command line replaces
        else:
            own = {**own, **numbers}
        node: Any = OmegaConf.to_container(cfg[group])
        with open_dict(cfg):
            for key in node:
                if f"{group}.{key}" in named:
                    continue
                if key not in own:
                    del cfg[group][key]
                elif key in old and node[key] == old[key]:
                    cfg[group][key] = own[key]


def take_auto(cfg: DictConfig) -> bool:
    """True if the config asks for data.batch_size=auto; the smallest size then takes its place until it is found."""
    if OmegaConf.select(cfg, "data.batch_size") != "auto":
        return False
    cfg.data.batch_size = 1
    return True


def group_defaults(group: str, choice: str) -> Any:
    """The settings in the file of a choice; composed only if the file has defaults, since that is slow."""
    file = CONF / group / f"{choice}.yaml"
    own = OmegaConf.load(file) if file.is_file() else None
    if own is None or "defaults" in own:
        own = compose_choices(["~experiment", f"{group}={choice}"]).get(group)
    return own if OmegaConf.is_dict(own) else {}


def compose_choices(words: list[str]) -> DictConfig:
    """The config of other choices, found in the same folders."""
    given = HydraConfig.get().overrides.hydra if HydraConfig.initialized() else []
    places = [word for word in given if read(word).key == "hydra.searchpath"]
    return compose("train", [*words, *places])


def resolve_length(cfg: DictConfig, overrides: list[str]) -> None:
    """Replace the experiment's length of training by that of the command line, in epochs or in steps."""
    given = {read(word).key for word in overrides}
    if "trainer.max_epochs" in given and "trainer.max_steps" not in given:
        cfg.trainer.max_steps = -1
    if "trainer.max_steps" in given and "trainer.max_epochs" not in given:
        cfg.trainer.max_epochs = -1
