"""Rules of the house that a tool can check."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import nydusify

ROOT = Path(__file__).parent.parent
CODE = ("nydusify", "flows", "tasks", "deployments", "scripts", "bench")
HEAVY = {"prefect", "pyarrow", "pandas", "httpx", "numpy", "pydantic", "rich", "typer", "cryptography", "fsspec"}


def sources() -> list[Path]:
    return sorted(path for room in CODE for path in (ROOT / room).rglob("*.py"))


def run_python(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}

    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    functions = [
        (f"{path.relative_to(ROOT)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert [function for function in functions if function[1] > 60] == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", ".ci/run"])
def test_make_commands_in_documents_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"(?:^|`|\$ |; )make ([a-z]+)", (ROOT / document).read_text(), re.MULTILINE)

    assert set(commands) - targets == set()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_files_that_documents_link_to_exist(document: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / document).read_text())

    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)

    assert newest is not None
    assert newest.group(1) == nydusify.__version__


def test_the_installed_version_is_this_one() -> None:
    try:
        installed = metadata.version("nydusify")
    except metadata.PackageNotFoundError:
        pytest.skip("nydusify is not installed in this environment; run the tests with `make test`")
    assert installed == nydusify.__version__


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = run_python("import sys, nydusify, nydusify.reports; print(*sys.modules)").split()

    assert HEAVY & set(loaded) == set()


@pytest.mark.parametrize(
    "first", ["import nydusify", "import nydusify.convert", "from nydusify.convert import convert"]
)
def test_the_library_call_is_a_function_in_every_order_of_imports(first: str) -> None:
    script = f"{first}\nimport nydusify\nimport nydusify.convert\nprint(callable(nydusify.convert), 'x')"

    assert run_python(script) == "True x\n"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nosuch"):
        nydusify.nosuch  # noqa: B018
    assert {"convert", "__version__"} <= set(nydusify.__all__)


def test_constraints_pin_every_dependency_within_its_bounds() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins: dict[str, set[str]] = {}
    for line in lines:
        name, version = re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)(?: ; .+)?", line).groups()  # type: ignore[union-attr]
        pins.setdefault(name, set()).add(version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]

    for requirement in map(requirements.Requirement, wanted):
        name = requirement.name.replace(".", "-")
        if name != "nydusify":
            assert pins[name], requirement
            assert all(requirement.specifier.contains(version) for version in pins[name]), requirement


def test_scripts_can_be_executed() -> None:
    scripts = [
        ROOT / ".ci/run",
        *(path for path in (ROOT / "scripts").iterdir() if path.suffix == "" and path.is_file()),
    ]

    assert [path for path in scripts if not os.access(path, os.X_OK)] == []


def test_the_wheel_has_one_name_and_brings_the_flows_along(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from nydusify.project import project_root;"
        "sys.path.insert(0, str(project_root())); import flows, tasks, deployments; print(flows.__file__)"
    )

    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert names == {"nydusify", f"nydusify-{nydusify.__version__}.dist-info"}
    assert run_python(script, tmp_path / "site").startswith(f"{tmp_path}/site/nydusify/project_files/flows/")
    assert (tmp_path / "site/nydusify/py.typed").is_file()
