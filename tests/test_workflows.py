"""The workflow and the issue forms parse; jobs call targets of the Makefile, on every Python that is supported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]


def load(path: Path) -> Any:
    """Parse YAML 1.1, which reads the key `on` as True."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    assert {path.name for path in (GITHUB / "workflows").iterdir()} == {"checks.yml", "wheels.yml"}
    workflow = load(GITHUB / "workflows" / "checks.yml")
    assert {"push", "pull_request"} == set(workflow[True])
    (job,) = workflow["jobs"].values()
    return dict(job)


def test_wheels_are_built_as_contributing_says_and_tried_without_a_compiler() -> None:
    """One for each platform that sources.py has levels for; none has been built by the workflow yet, which it says."""
    path = GITHUB / "workflows" / "wheels.yml"
    workflow = load(path)
    assert workflow[True] == {"push": {"tags": ["v*"]}, "workflow_dispatch": None}
    (job,) = workflow["jobs"].values()
    systems = [runner.split("-")[0] for runner in job["strategy"]["matrix"]["runner"]]
    assert systems == ["ubuntu", "ubuntu", "macos", "windows"]
    commands = {step["run"]: step.get("env", {}) for step in job["steps"] if "run" in step}
    policy = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (build,) = [command for command in commands if "hatchling build" in command]
    assert commands[build]["VALLEYS_PREBUILT"] == "1"
    assert f"VALLEYS_PREBUILT=1 {build.rpartition(' -d ')[0]}" in policy
    (trial,) = [command for command in commands if "valleys.ALTO" in command]
    assert commands[trial]["CC"] == "no-such-compiler"
    assert "It has **not run**" in policy
    assert "it has not run on GitHub or anywhere else yet" in path.read_text(encoding="utf-8")


def test_jobs_call_targets_that_exist_and_nothing_else(job: dict[str, Any]) -> None:
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make ${{ matrix.target }} PYTHON=python"]
    matrix = job["strategy"]["matrix"]
    targets = [*matrix["target"], *(entry["target"] for entry in matrix["include"])]
    assert sorted(targets) == ["coverage", "docs", "lint", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_tests_run_on_the_versions_of_python_that_are_declared(job: dict[str, Any]) -> None:
    versions = job["strategy"]["matrix"]["python"]
    assert all(type(version) is str for version in versions), "3.10 without quotes is 3.1"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert versions == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert f'requires-python = ">={versions[0]}"' in project
    policy = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"Python {versions[0]} to {versions[-1]}" in policy
    (torch,) = re.findall(r'"torch>=([\d.]+)"', project)
    assert f"torch from {torch} on" in policy


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_have_the_fields_that_github_requires(path: Path) -> None:
    form = load(path)
    assert {"name", "description", "body"} <= form.keys()
    kinds = [field["type"] for field in form["body"]]
    assert set(kinds) <= {"markdown", "textarea", "checkboxes"}
    assert "textarea" in kinds
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_there_are_three_forms_and_a_template_of_pull_requests() -> None:
    assert [path.stem for path in FORMS] == ["bug", "feature", "question"]
    assert load(GITHUB / "ISSUE_TEMPLATE" / "config.yml") == {"blank_issues_enabled": False}
    assert "make lint" in (GITHUB / "PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
