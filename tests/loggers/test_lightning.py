"""Loggers of Lightning by their names."""

import sys

import pytest
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.loggers import CSVLogger

from src.loggers.lightning import lightning_logger
from src.utils.errors import UserError


def test_it_is_the_class_with_its_arguments(tmp_path):
    logger = lightning_logger("CSVLogger", {"save_dir": str(tmp_path), "name": "x", "version": 3})
    assert type(logger) is CSVLogger and logger.log_dir == str(tmp_path / "x" / "version_3")


@pytest.mark.parametrize("name", ["csv", "Logger", "os"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match=rf"{name} is no logger of Lightning .*CSVLogger"):
        lightning_logger(name)


def test_a_package_that_is_missing_is_named(monkeypatch):
    from pytorch_lightning.loggers import comet

    monkeypatch.setattr(comet, "_COMET_AVAILABLE", RequirementCache("comet-ml>=999"))
    with pytest.raises(UserError, match=r"CometLogger needs a package that is not installed: .*comet"):
        lightning_logger("CometLogger", {"project": "x"})


def test_mlflow_says_what_to_install(tmp_path, monkeypatch):
    from src.loggers.mlflow import RunFolderMLFlowLogger

    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "mlflow.environment_variables", raising=False)
    with pytest.raises(UserError, match=r"pip install mlflow, or pip install 'diffusion-lab\[mlflow\]'"):
        RunFolderMLFlowLogger(str(tmp_path), str(tmp_path))
