"""``nydusify run``: parameters from options and files, and what is said when something is missing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nydusify.cli.run import RunArguments, parameters
from nydusify.errors import UsageError
from nydusify.oci.open import open_source
from tests.commands import ROOT, nydusify
from tests.oci_images import layout_files, small_image, write


def test_options_beat_the_file_and_values_are_json_or_text(tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text('{"source": "a.test/x:1", "target": "a.test/x:2", "jobs": 1}')
    typed = ["jobs=2", 'platforms=["linux/amd64"]', "compressor=none", "source_archive=a=b.tar"]

    assert parameters(RunArguments("convert", target="a.test/x:3", param=typed, params_file=file)) == {
        "source": "a.test/x:1",
        "target": "a.test/x:3",
        "jobs": 2,
        "platforms": ["linux/amd64"],
        "compressor": "none",
        "source_archive": "a=b.tar",
    }


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, '"text"'])
def test_a_file_that_holds_no_object_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "params.json"
    file.write_text(content)

    with pytest.raises(UsageError, match="JSON object"):
        parameters(RunArguments("convert", params_file=file))


@pytest.mark.parametrize("typed", ["text", "=value", ""])
def test_a_parameter_without_a_key_is_refused(typed: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parameters(RunArguments("convert", param=[typed]))


def test_files_and_flows_that_are_not_there(tmp_path: Path) -> None:
    gone = nydusify(tmp_path, "run", "convert", "--params-file", "gone.json")
    unknown = nydusify(tmp_path, "run", "launch")

    assert (gone.code, unknown.code) == (2, 2)
    assert "gone.json: No such file" in gone.stderr
    assert "no flow 'launch'" in unknown.stderr
    assert "advice: Flows are: convert." in unknown.stderr


def test_without_prefect_the_extra_is_named(tmp_path: Path) -> None:
    # A finder that knows no prefect stands for an installation without the extra.
    script = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Finder(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        return None if name == 'prefect' else super().find_spec(name, path, target)\n"
        "sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]\n"
        "sys.argv = ['nydusify', 'run', 'convert']\n"
        "from nydusify.cli.main import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "error: Prefect is not installed" in done.stderr
    assert "nydusify[prefect]" in done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Path:
    pytest.importorskip("prefect", reason="nydusify[prefect] is not installed")
    write(tmp_path / "source.tar", layout_files(small_image("hello " * 5000, "world " * 3000)))
    return tmp_path


def run(home: Path, *arguments: object) -> Any:
    variables = {"PREFECT_HOME": str(home / ".prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return nydusify(home, "run", "convert", *arguments, **variables)


def test_unknown_and_malformed_parameters_are_refused_before_the_run(home: Path) -> None:
    unknown = run(home, "--param", "sauce=1")
    malformed = run(home, "--source", "a.test/x:1", "--target", "a.test/x:2", "--param", "fs_version=7hunter2")

    assert (unknown.code, malformed.code) == (2, 2)
    assert "the flow has no parameter sauce" in unknown.stderr
    assert "fs_version" in malformed.stderr
    assert "hunter2" not in malformed.stderr


def test_the_flow_gives_the_same_image_as_the_command(home: Path) -> None:
    source = ("--source", "a.test/app:1")
    target = ("--target", "a.test/app:2")
    flow = run(
        home,
        *source,
        *target,
        *("--param", f"source_archive={home / 'source.tar'}"),
        *("--param", f"target_archive={home / 'flow.tar'}"),
        *("--param", f"work_dir={home / 'flow-work'}"),
    )
    command = nydusify(
        home, "convert", *source, *target, "--source-archive", "source.tar", "--target-archive", "target.tar", "--json"
    )
    repository = open_source(home / "flow.tar")
    digest = str(repository.resolve("2").digest)
    repository.close()
    shutil.rmtree(home / ".prefect")

    assert (flow.code, command.code) == (0, 0), flow
    assert json.loads(command.stdout)["TargetDigest"] == digest
    assert digest in json.dumps(json.loads(flow.stdout))
