"""Imports point down. When this fails, move the code; the tables change only with a decision record."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nydusify"

BASE = {"errors", "digest", "store", "hooks"}
FORMATS = {"rafs", "oci", "registry", "backends"}
WORK = {"build", "mount", "reports", "runtime"}
COMMON = {"conversion"}
STEPS = {"convert", "check", "copy", "pack", "optimize", "commit"}

# What a room of nydusify may import of nydusify, besides itself.
ROOMS = {
    "errors": set[str](),
    "digest": {"errors"},
    "project": {"errors"},
    "hooks": {"errors", "digest"},
    "store": {"errors", "digest"},
    "rafs": BASE,
    "oci": BASE,
    "registry": BASE | {"oci"},
    "backends": BASE | {"oci", "registry"},
    "build": BASE | {"rafs", "oci"},
    "mount": BASE | FORMATS,
    "reports": BASE | {"rafs", "oci"},
    "runtime": BASE | {"oci"},
    "conversion": BASE | FORMATS | WORK,
    **dict.fromkeys(STEPS, BASE | FORMATS | WORK | COMMON | STEPS),
    "__main__": {"cli"},
    "cli": BASE | FORMATS | WORK | COMMON | STEPS | {"project"},
}

# Who alone may import a library, as a path or the beginning of one. `nydusify run` is the one door upwards.
DOORS = {
    "prefect": ("flows/", "tasks/", "deployments/", "nydusify/cli/run.py"),
    "prefect_dask": ("flows/", "deployments/"),
    "flows": ("flows/", "deployments/", "nydusify/cli/run.py"),
    "tasks": ("tasks/", "flows/"),
    "deployments": ("deployments/",),
    "httpx": ("nydusify/registry/",),
    "boto3": ("nydusify/backends/s3.py",),
    "botocore": ("nydusify/backends/s3.py",),
    "oss2": ("nydusify/backends/oss.py",),
    "pyarrow": ("nydusify/reports/",),
    "fsspec": ("nydusify/reports/",),
    "pandas": ("notebooks/",),
    "typer": ("nydusify/cli/",),
    "rich": ("nydusify/cli/",),
}


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, at its top, in functions, or for type checking only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            yield from (f"{module}.{name.name}" for name in node.names)


def room_of(name: str) -> str | None:
    """The room that a dotted name below ``nydusify`` lies in; None for the package itself, such as its version."""
    parts = name.split(".")
    if parts[0] != "nydusify" or len(parts) == 1:
        return None
    exists = (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").is_file()
    return parts[1] if exists or parts[1] in ROOMS else None


def test_every_room_has_its_place_in_the_table() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in sources("nydusify")}

    assert rooms - {"__init__"} <= set(ROOMS)


def test_rooms_import_only_what_lies_below_them() -> None:
    wrong = []
    for path in sources("nydusify"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        used = {room_of(name) for name in imports(path)} - {None, own}
        wrong += [f"{path.relative_to(ROOT)}: {room}" for room in used - ROOMS[own]]

    assert wrong == []


@pytest.mark.parametrize("library", DOORS)
def test_a_library_is_imported_only_behind_its_door(library: str) -> None:
    files = sources("nydusify", "tasks", "flows", "deployments")
    users = {str(path.relative_to(ROOT)) for path in files for name in imports(path) if name.split(".")[0] == library}

    assert sorted(user for user in users if not user.startswith(DOORS[library])) == []


def test_flows_and_tasks_do_not_reach_for_the_command() -> None:
    users = [path for path in sources("tasks", "flows") for name in imports(path) if name.startswith("nydusify.cli")]

    assert users == []


def test_the_tables_point_downwards() -> None:
    """No two rooms may import each other, except the steps, which use one another."""
    pairs = [(room, other) for room, below in ROOMS.items() for other in below if room in ROOMS[other]]

    assert {room for pair in pairs for room in pair} <= STEPS
