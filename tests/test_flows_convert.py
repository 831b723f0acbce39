"""The conversion as a Prefect flow: the same image as the library's, and what is kept, tried again and left behind."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import nydusify
from nydusify.conversion.location import Location
from nydusify.conversion.publish import ImageOptions
from nydusify.convert import ConvertOptions
from nydusify.digest import Digest
from nydusify.errors import AuthError, FormatError, NotFound, RetryLater
from nydusify.oci.descriptor import Platform
from nydusify.oci.manifest import Index, Manifest
from nydusify.store import Store
from tests.faults import Proxy, status
from tests.flow_places import Place, place_fixture, proxy_fixture, resolved  # noqa: F401
from tests.oci_images import small_image, store
from tests.prefect_server import SeenRun, prefect_server, runs_of  # noqa: F401
from tests.registry_helpers import repository
from tests.servers import unique_name

pytest.importorskip("prefect")

from prefect import flow

from flows.convert import WORKERS, ConvertParameters, convert_image
from tasks import layers

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


def run(parameters: ConvertParameters) -> tuple[dict[str, Any], list[SeenRun]]:
    """Run the flow; return its result and its task runs, which must be one a step."""
    state = convert_image(parameters, return_state=True)
    result = state.result()
    image = len(result["platforms"]) + 1 + parameters.verify
    steps = 0 if result["verdict"] == "unchanged" else 2 * result["layers"] + result["built_layers"] + image
    assert state.state_details.flow_run_id is not None
    return result, runs_of(state.state_details.flow_run_id, 1 + steps)


def nydus_manifest(reference: str) -> Manifest:
    location = Location(reference)
    with repository(location.name.registry, location.name.repository) as opened:
        return Manifest.parse(opened.read_manifest(opened.resolve(location.name.tag or "latest")))


def states(runs: list[SeenRun], task: str) -> list[str]:
    return [one.state for one in runs if one.task == task]


# The whole flow


def test_library_command_and_flow_give_one_digest(place: Place, tmp_path: Path) -> None:
    target = place.target()
    library = nydusify.convert(place.source, target, ConvertOptions(store=tmp_path / "library"))

    command = place.target()
    arguments = ["convert", "--source", place.source, "--target", command, "--work-dir", str(tmp_path / "command")]
    script = "import sys; from nydusify.cli.main import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, cwd=Path(__file__).parent.parent)

    result, _ = run(place.parameters())

    assert result["verdict"] == "verified"
    assert result["target_digest"] == str(library.target_digest)
    assert resolved(result["target"]).digest == resolved(command).digest == library.target_digest


@pytest.mark.parametrize("shape", ["image.tar", "layout/"])
def test_archives_convert_to_the_same_bytes_as_with_the_library(place: Place, tmp_path: Path, shape: str) -> None:
    by_library, by_flow = tmp_path / "library", tmp_path / "flow"
    for folder in (by_library, by_flow):
        folder.mkdir()
    target = Location("registry.test/app:1-nydus", archive=f"{by_library}/{shape}")
    library = nydusify.convert(place.source, target, ConvertOptions(store=tmp_path / "other"))

    result, _ = run(place.parameters("registry.test/app:1-nydus", target_archive=f"{by_flow}/{shape}"))

    assert result["target_digest"] == str(library.target_digest)
    files = {path.relative_to(by_flow): path.read_bytes() for path in by_flow.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(by_library): path.read_bytes() for path in by_library.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("merged", [False, True])
def test_an_index_converts_as_with_the_library(place: Place, tmp_path: Path, merged: bool) -> None:
    other = small_image("other " + place.name, architecture="arm64")
    with repository(place.host, place.name) as opened:
        store(other, opened, None)
        entries = [
            replace(one.descriptor, platform=Platform("linux", architecture))
            for one, architecture in ((place.image, "amd64"), (other, "arm64"))
        ]
        index = Index(tuple(entries))
        opened.write_manifest(index.descriptor(), index.to_bytes(), "1")
    by_library = ConvertOptions(ImageOptions(merge_platform=merged), all_platforms=True, store=tmp_path / "library")
    library = nydusify.convert(place.source, place.target(), by_library)
    parameters = place.parameters(all_platforms=True, merge_platform=merged)

    result, _ = run(parameters)
    again, _ = run(parameters)

    assert result["target_digest"] == again["target_digest"] == str(library.target_digest)
    assert result["source_digest"] == again["source_digest"] == str(index.descriptor().digest)
    assert (result["verdict"], again["verdict"]) == ("verified", "unchanged")
    assert list(result["platforms"]) == ["linux/amd64", "linux/arm64"]


def test_task_runs_are_named_by_what_they_work_on(place: Place) -> None:
    parameters = place.parameters()

    result, runs = run(parameters)

    sources = [str(layer.digest) for layer in place.image.manifest.layers]
    blobs = [str(layer.digest) for layer in nydus_manifest(parameters.target).layers[:-1]]
    assert sorted((one.task, one.name) for one in runs) == sorted(
        [
            ("fetch_manifest", f"fetch {parameters.source}"),
            *(("pull_layer", f"pull {digest}") for digest in sources),
            *(("build_layer", f"build {digest}") for digest in sources),
            *(("push_blob", f"push {digest}") for digest in blobs),
            ("merge_bootstrap", f"merge {place.image.descriptor.digest}"),
            ("push_manifest", f"push {parameters.target}"),
            ("verify", f"verify {parameters.target}"),
        ]
    )
    assert {one.state for one in runs} == {"Completed"}
    assert result["built_layers"] == 2


def test_a_layer_of_an_earlier_run_comes_from_the_cache(place: Place) -> None:
    first, _ = run(place.parameters())
    second, runs = run(place.parameters())

    assert states(runs, "build_layer") == ["Cached", "Cached"]
    assert states(runs, "pull_layer") == []
    assert second["target_digest"] == first["target_digest"]
    assert (second["built_layers"], second["pulled_size"], second["verdict"]) == (0, 0, "verified")


def test_other_options_are_built_anew(place: Place) -> None:
    run(place.parameters())
    result, runs = run(place.parameters(compressor="lz4_block"))

    assert states(runs, "build_layer") == ["Completed", "Completed"]
    assert result["built_layers"] == 2


@pytest.mark.parametrize("gone", ["blob", "bootstrap"])
def test_a_layer_that_the_store_lost_is_built_again(place: Place, gone: str) -> None:
    parameters = place.parameters()
    first, _ = run(parameters)
    lost = place.image.manifest.layers[0].digest
    (note,) = (place.work_dir / "notes/layers").glob(f"{lost.hex}-*")
    written = json.loads(note.read_text())
    digest = Digest.parse(written["facts"]["blob"] if gone == "blob" else written["bootstrap"])
    Store(place.work_dir).path(digest).unlink()

    second, runs = run(place.parameters())

    by_name = {one.name: one.state for one in runs if one.task == "build_layer"}
    assert by_name[f"build {lost}"] == "Completed"
    assert sorted(by_name.values()) == ["Cached", "Completed"]
    assert (second["built_layers"], second["target_digest"]) == (1, first["target_digest"])
    assert Store(place.work_dir).path(digest).is_file()

    third, runs = run(place.parameters())
    assert states(runs, "build_layer") == ["Cached", "Cached"]
    assert third["target_digest"] == first["target_digest"]


def test_an_image_may_have_more_layers_than_there_are_workers(place: Place) -> None:
    many = small_image(*(f"{place.name} {number}" for number in range(WORKERS + 5)))
    with repository(place.host, place.name) as opened:
        store(many, opened, "many")

    result, runs = run(place.parameters(source=f"{place.host}/{place.name}:many"))

    assert (result["verdict"], result["built_layers"]) == ("verified", WORKERS + 5)
    assert states(runs, "push_blob") == ["Completed"] * (WORKERS + 5)


def test_nothing_is_done_when_the_target_is_up_to_date(place: Place, proxy: Proxy) -> None:
    target = f"{proxy.host}/{unique_name('target')}:1"
    first, _ = run(place.parameters(target))
    before = len(proxy.seen)

    second, runs = run(place.parameters(target))

    assert [one.task for one in runs] == ["fetch_manifest"]
    assert (second["verdict"], second["target_digest"]) == ("unchanged", first["target_digest"])
    assert [seen for seen in proxy.seen[before:] if "/blobs/" in seen.path or seen.method not in ("GET", "HEAD")] == []


def test_the_tag_is_written_after_everything_else(place: Place, proxy: Proxy) -> None:
    run(place.parameters(f"{proxy.host}/{unique_name('target')}:1", verify=False))

    written = [seen.path for seen in proxy.seen if seen.method in ("PUT", "POST", "PATCH")]
    assert [path for path in written if "/manifests/" in path] == written[-1:]
    assert written[-1].endswith("/manifests/1")


def test_a_run_leaves_its_rows(place: Place, tmp_path: Path) -> None:
    from nydusify.reports.dataset import read

    root = tmp_path / "reports"
    result, _ = run(place.parameters(reports=str(root)))

    (row,) = read("conversions", root).to_pylist()
    assert result["report"].endswith(f"{row['run_id']}.parquet")
    assert UUID(row["run_id"])
    assert (row["verdict"], row["target_digest"], row["layers"]) == ("verified", result["target_digest"], 2)
    assert row["pulled_bytes"] == sum(layer.size for layer in place.image.manifest.layers) == result["pulled_size"]
    assert row["pushed_bytes"] == result["pushed_size"]
    assert min(row[f"{stage}_ns"] for stage in ("resolve", "pull", "build", "merge", "push", "verify")) > 0
    assert {layer["origin"] for layer in read("layers", root).to_pylist()} == {"built"}


def test_a_run_that_fails_leaves_a_row_and_no_tag(place: Place, tmp_path: Path) -> None:
    from nydusify.reports.dataset import read

    with repository(place.host, place.name) as opened:
        config = json.loads(place.image.blobs[place.image.manifest.config.digest])
        config["rootfs"]["diff_ids"].reverse()
        content = json.dumps(config).encode()
        entry = replace(place.image.manifest.config, digest=Digest.of(content), size=len(content))
        manifest = replace(place.image.manifest, config=entry)
        opened.write_blob(entry, content)
        opened.write_manifest(manifest.descriptor(), manifest.to_bytes(), "wrong")
    target = place.target()

    root = tmp_path / "reports"
    wrong = place.parameters(target, source=f"{place.host}/{place.name}:wrong", reports=str(root))
    with pytest.raises(FormatError):
        convert_image(wrong)

    (row,) = read("conversions", root).to_pylist()
    assert (row["verdict"], row["error_class"]) == ("failed", "DigestMismatch")
    with pytest.raises(NotFound):
        resolved(target)


# What is tried again


def test_a_registry_that_is_busy_is_asked_again(place: Place, proxy: Proxy) -> None:
    layer = place.fetched().layers[0]
    job = place.job(through=proxy.host)
    proxy.fail("GET", "/blobs/", status(503), times=2)

    @flow
    def pull() -> int:
        return layers.pull_layer.with_options(retry_delay_seconds=0)(job, layer, {}).size

    assert pull() == layer.descriptor.size
    assert len(proxy.requests("GET", "/blobs/")) == 3
    assert job.store.has(layer.descriptor.digest, layer.descriptor.size)


@pytest.mark.parametrize(("code", "error"), [(404, NotFound), (403, AuthError), (503, RetryLater)])
def test_only_what_may_pass_is_tried_again(place: Place, proxy: Proxy, code: int, error: type[Exception]) -> None:
    layer = place.fetched().layers[0]
    job = place.job(through=proxy.host)
    proxy.fail("GET", "/blobs/", status(code), times=99)

    @flow
    def pull() -> None:
        layers.pull_layer.with_options(retry_delay_seconds=0)(job, layer, {})

    with pytest.raises(error):
        pull()
    assert len(proxy.requests("GET", "/blobs/")) == (4 if code == 503 else 1)


def test_a_damaged_layer_is_not_tried_again(place: Place) -> None:
    layer = replace(place.fetched().layers[0], diff_id=Digest.of(b"something else"))

    @flow
    def build() -> None:
        layers.build_layer(place.job(), layer)

    state = build(return_state=True)

    assert isinstance(state.result(raise_on_failure=False), FormatError)
    assert state.state_details.flow_run_id is not None
    (one,) = runs_of(state.state_details.flow_run_id, 1)
    assert (one.state, one.tries) == ("Failed", 1)
