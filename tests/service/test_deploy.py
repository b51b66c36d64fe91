"""deploy/: what its files name exists, and the schemas of the engines accept them where validators are installed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from src.service.metrics import Metrics

DEPLOY = Path("deploy")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def words(text: str) -> set[str]:
    return {word.split("=")[0] for word in re.findall(r'"([\w.]+=[^"]*)"', text)}


def test_the_image_starts_the_service_as_nobody():
    file = (DEPLOY / "Dockerfile").read_text()
    settings = yaml.safe_load(Path("conf/serve.yaml").read_text())
    assert words(file.partition("ENTRYPOINT")[2]) <= settings.keys()
    assert "host=0.0.0.0" in file
    last_user = re.findall(r"^USER (\w+)$", file, re.M)[-1]
    assert last_user == str(KUBERNETES[0]["spec"]["template"]["spec"]["securityContext"]["runAsUser"]) != "0"
    for source in re.findall(r"^COPY (.+) \S+$", file, re.M):
        assert all(Path(name).exists() for name in source.split())


def test_secrets_come_from_the_environment():
    text = Path("conf/serve.yaml").read_text()
    names = set(re.findall(r"oc\.env:(\w+)", text))
    assert (
        names == {"DIFFUSION_LAB_TOKEN", "DIFFUSION_LAB_DATABASE"} == set(COMPOSE["services"]["serve"]["environment"])
    )
    container = KUBERNETES[0]["spec"]["template"]["spec"]["containers"][0]
    assert {entry["name"] for entry in container["env"]} == names


def test_what_compose_mounts_exists():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file(), source
            else:
                assert source in COMPOSE["volumes"] or source.startswith("${"), source


def test_probes_and_scrapes_ask_what_there_is(serve):
    served = serve()
    probes = re.findall(r"path: (/\w+), port", (DEPLOY / "kubernetes.yaml").read_text())
    assert probes
    for path in {*probes, "/metrics"}:
        assert served.client.get(path).status_code == 200
    assert "/ready" in (DEPLOY / "Dockerfile").read_text()


def test_the_dashboard_shows_figures_that_there_are():
    dashboard = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    asked = {name for panel in dashboard["panels"] for t in panel["targets"] for name in re.findall(r"diffusion_\w+", t["expr"])}  # fmt: skip  # noqa: E501
    text = Metrics("0").text().decode()
    bases = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    ends = {base + end for base in bases for end in ("", "_bucket", "_sum", "_count", "_total")}
    assert asked and asked <= ends, asked - ends


VALIDATORS = {
    "check-jsonschema": ["--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml"],
    "kubernetes-validate": ["--strict", "deploy/kubernetes.yaml"],
}


@pytest.mark.slow
@pytest.mark.parametrize("tool", VALIDATORS)
def test_the_engines_schemas_accept_the_files(tool):
    found = shutil.which(tool, path=f"{Path(sys.executable).parent}:{Path.home()}/.local/bin") or shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([found, *VALIDATORS[tool]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
