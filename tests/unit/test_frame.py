"""The frame that everything is built in: layout, commands, import layers, deployment of every service."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.topics import SERVICES
from tests.support.image import absent_modules

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
TOP_LEVEL = (
    *("services", "libs", "contracts", "deploy/k8s", "tests", "docs", "Makefile", "README.md", "docker-compose.yml"),
    *("pyproject.toml", "uv.lock", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"),
    ".ci/run",
)
SAYS_NOTHING = ("utils", "util", "common", "helpers", "helper", "core", "base", "misc")


def _yaml(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _sources() -> list[Path]:
    return [path for room in ("contracts", "libs", "services", "tests") for path in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_the_top_level_of_the_design_is_there(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("target", ["install", "demo", "test", "test-unit", "lint", "bench", "contracts", "up"])
def test_make_knows_the_target_and_the_commands_that_it_runs(target: str) -> None:
    done = subprocess.run(["make", "-n", "-C", str(ROOT), target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scripts = re.findall(r"(?:deploy|tests)/\S+\.sh", done.stdout)
    assert scripts
    assert all((ROOT / script).stat().st_mode & 0o111 for script in scripts)


def test_ci_runs_the_test_command_of_the_readme_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "exec make test"
    assert [line for line in lines[:-1] if not line.startswith(("set ", "cd ", "export CI="))] == []
    assert "make test" in (ROOT / "README.md").read_text()


def test_imports_go_one_way_only() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_import_contracts_and_dependency_groups_name_every_service() -> None:
    project = _pyproject()
    modules = {f"services.{service}" for service in SERVICES}
    independence, forbidden = (
        next(each for each in project["tool"]["importlinter"]["contracts"] if each["type"] == kind)
        for kind in ("independence", "forbidden")
    )
    assert set(independence["modules"]) == set(forbidden["source_modules"]) == modules
    groups = project["dependency-groups"]
    assert set(SERVICES) <= groups.keys()
    assert {each["include-group"] for each in groups["embedded"]} == {*SERVICES, "cli"}


def test_every_service_is_a_folder_and_every_folder_a_service() -> None:
    folders = {path.parent.name for path in (ROOT / "services").glob("*/__init__.py")}
    assert folders == {*SERVICES, "cli"}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path in _sources() if path.stem in SAYS_NOTHING or path.parent.name in SAYS_NOTHING] == []


def test_no_test_is_skipped_where_a_server_is_missing() -> None:
    skip = re.compile(r"\bskip(if)?\s*\(|importorskip")
    assert [
        path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__) and skip.search(path.read_text())
    ] == []


def test_no_except_is_bare() -> None:
    assert [path for path in _sources() if re.search(r"^\s*except\s*:", path.read_text(), re.MULTILINE)] == []


def test_compose_runs_every_service_and_nobody_has_a_default_secret() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    services = _yaml(ROOT / "docker-compose.yml")[0]["services"]
    for service in SERVICES:
        migration, own = services[f"migrate-{service}"], services[service]
        assert migration["build"]["args"]["SERVICE"] == service
        assert own["image"] == migration["image"] == f"kivuko-{service}"
        assert own["environment"]["KIVUKO_DATABASE_URL"].startswith(f"postgresql://{service}:")
        assert own["depends_on"][f"migrate-{service}"] == {"condition": "service_completed_successfully"}
        assert own["read_only"] is True
    assert any(port.endswith(":11112:11112") for port in services["ingest"]["ports"])
    secrets = re.findall(r"\$\{(\w*(?:PASSWORD|SECRET|TOKEN))(\S)", text)
    assert {after for _, after in secrets} == {":"}
    assert ":-" not in "".join(re.findall(r"\$\{\w*(?:PASSWORD|SECRET|TOKEN):.", text))
    written = (ROOT / "deploy" / "compose" / "secrets.sh").read_text()
    assert {name for name, _ in secrets} <= set(re.findall(r"\w+", written))


def test_the_gateway_sends_to_every_service() -> None:
    listed = re.search(r"\(\?<service>([a-z|]+)\)", (ROOT / "deploy" / "compose" / "gateway.conf").read_text())
    assert listed is not None
    assert set(listed[1].split("|")) == set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_kubernetes_runs_the_service_and_keeps_it_up(service: str) -> None:
    documents = {
        each["kind"]: each for each in _yaml(K8S / "base" / f"{service}.yaml") if each["metadata"]["name"] == service
    }
    workload = documents["StatefulSet" if service == "ingest" else "Deployment"]
    pod = workload["spec"]["template"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert (
        documents["Service"]["spec"]["selector"] == documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    )
    sources = [source for each in pod["spec"]["containers"][0]["envFrom"] for source in each.values()]
    assert {"name": f"kivuko-{service}"} in sources
    kustomization = _yaml(K8S / "base" / "kustomization.yaml")[0]
    assert f"{service}.yaml" in kustomization["resources"]
    migrations = [each for each in _yaml(K8S / "base" / f"{service}.yaml") if each["kind"] == "Job"]
    assert [each["spec"]["template"]["spec"]["containers"][0]["args"] for each in migrations] == [["migrate"]]


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job"])
def test_kubernetes_gives_every_pod_probes_and_takes_its_rights(kind: str) -> None:
    patches = {
        each["target"]["kind"]: each["path"] for each in _yaml(K8S / "base" / "kustomization.yaml")[0]["patches"]
    }
    pod = _yaml(K8S / "base" / patches[kind])[0]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    if kind != "Job":
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_no_kubernetes_manifest_holds_a_secret() -> None:
    assert [path for path in K8S.rglob("*.yaml") for each in _yaml(path) if each.get("kind") == "Secret"] == []


def test_the_image_of_a_service_holds_no_other_service() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for each in copied for name in each.split() if name.startswith("services")}
    assert names == {"services/__init__.py", "services/cli", "services/${SERVICE}"}


#: Imports the command line and one service while everything that its image does not hold is missing.
ALONE = """
import importlib, json, sys
service, absent = sys.argv[1], json.loads(sys.argv[2])
sys.modules.update(dict.fromkeys(absent))
importlib.import_module("services.cli.app")
importlib.import_module(f"services.{service}.app")
assert set(importlib.import_module("services.cli.composition").migrated_services()) <= {service}
"""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_what_its_image_holds(service: str) -> None:
    absent = absent_modules(service)
    assert {"pytest", "hypothesis", *(f"services.{other}" for other in SERVICES if other != service)} <= set(absent)
    command = [sys.executable, "-c", ALONE, service, json.dumps(absent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_revisions_of_tables_are_one_line_of_numbers(service: str) -> None:
    # Two of one number are merged without a conflict, and then one of them never happens.
    found = sorted((ROOT / "services" / service / "migrations" / "versions").glob("[0-9]*.py"))
    assert [path.name[:4] for path in found] == [f"{number:04}" for number in range(1, len(found) + 1)]
    for number, path in enumerate(found):
        said = path.read_text()
        before = f'"{number:04}"' if number else "None"
        assert f'\nrevision = "{number + 1:04}"\n' in said, path.name
        assert f"\ndown_revision = {before}\n" in said, path.name
