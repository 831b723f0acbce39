"""The conversion as a Prefect flow: the same image as the library's, and what is kept, tried again and left behind."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import nydusify
from nydusify.conversion.job import Job
from nydusify.conversion.location import Location
from nydusify.conversion.steps import Fetched
from nydusify.convert import ConvertOptions
from nydusify.digest import Digest
from nydusify.errors import FormatError, NotFound, NydusifyError, RetryLater, StoreError, UsageError
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.manifest import Manifest
from nydusify.registry.options import RegistryOptions
from nydusify.store import Store
from tests.faults import Proxy, fault_proxy, status
from tests.oci_images import SmallImage, small_image, store
from tests.prefect_server import SeenRun, prefect_server, runs_of  # noqa: F401
from tests.registry_helpers import repository
from tests.servers import Registry, unique_name

pytest.importorskip("prefect")

from prefect.logging import disable_run_logger

from flows.convert import ConvertParameters, convert_image
from tasks import images, layers

pytestmark = pytest.mark.xdist_group("prefect")
orchestrated = pytest.mark.usefixtures("prefect_server")
TEXTS = ("one" * 50_000, "two" * 40_000)
EASY = RegistryOptions(plain_http=True, retry_count=0)


@dataclass
class Place:
    """An image in a registry, and room beside it."""

    host: str
    name: str
    image: SmallImage
    work_dir: Path

    @property
    def source(self) -> str:
        return f"{self.host}/{self.name}:1"

    def target(self, tag: str = "1-nydus") -> str:
        return f"{self.host}/{unique_name('target')}:{tag}"

    def parameters(self, target: str = "", **changes: Any) -> ConvertParameters:
        values = {"source": self.source, "target": target or self.target(), "work_dir": str(self.work_dir)}
        return ConvertParameters(**(values | changes))

    def job(self, target: str = "", **options: Any) -> Job:
        registry = replace(EASY, **options)
        return Job(
            Location(self.source, registry=registry),
            Location(target or self.target(), registry=registry),
            work_dir=self.work_dir,
        )


@pytest.fixture
def place(registry: Registry, repository_name: str, tmp_path: Path) -> Place:
    # Every test has layers of its own, so that no other one has put them into the cache.
    image = small_image(*(f"{repository_name} {text}" for text in TEXTS))
    with repository(registry.host, repository_name) as opened:
        store(image, opened, "1")
    return Place(registry.host, repository_name, image, tmp_path / "work")


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with fault_proxy(registry.host) as running:
        yield running


@pytest.fixture
def quiet() -> Iterator[None]:
    with disable_run_logger():
        yield


def run(parameters: ConvertParameters) -> tuple[dict[str, Any], list[SeenRun]]:
    """Run the flow; return its result and its task runs, which must be one a step."""
    state = convert_image(parameters, return_state=True)
    result = state.result()
    steps = 1 if result["verdict"] == "unchanged" else 4 + 2 * len(TEXTS) + _pulls(result)
    assert state.state_details.flow_run_id is not None
    return result, runs_of(state.state_details.flow_run_id, steps)


def _pulls(result: dict[str, Any]) -> int:
    return int(result["built_layers"])


def resolved(reference: str) -> Descriptor:
    location = Location(reference)
    with repository(location.name.registry, location.name.repository) as opened:
        return opened.resolve(location.name.tag or "latest")


def nydus_manifest(reference: str) -> Manifest:
    location = Location(reference)
    with repository(location.name.registry, location.name.repository) as opened:
        return Manifest.parse(opened.read_manifest(opened.resolve(location.name.tag or "latest")))


def states(runs: list[SeenRun], task: str) -> list[str]:
    return [one.state for one in runs if one.task == task]


# The whole flow


@orchestrated
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


@orchestrated
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


@orchestrated
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


@orchestrated
def test_a_layer_of_an_earlier_run_comes_from_the_cache(place: Place) -> None:
    first, _ = run(place.parameters())
    second, runs = run(place.parameters())

    assert states(runs, "build_layer") == ["Cached", "Cached"]
    assert states(runs, "pull_layer") == []
    assert second["target_digest"] == first["target_digest"]
    assert (second["built_layers"], second["pulled_size"], second["verdict"]) == (0, 0, "verified")


@orchestrated
def test_other_options_are_built_anew(place: Place) -> None:
    run(place.parameters())
    result, runs = run(place.parameters(compressor="lz4_block"))

    assert states(runs, "build_layer") == ["Completed", "Completed"]
    assert result["built_layers"] == 2


@orchestrated
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


@orchestrated
def test_nothing_is_done_when_the_target_is_up_to_date(place: Place, proxy: Proxy) -> None:
    target = f"{proxy.host}/{unique_name('target')}:1"
    first, _ = run(place.parameters(target))
    before = len(proxy.seen)

    second, runs = run(place.parameters(target))

    assert [one.task for one in runs] == ["fetch_manifest"]
    assert (second["verdict"], second["target_digest"]) == ("unchanged", first["target_digest"])
    assert [seen for seen in proxy.seen[before:] if "/blobs/" in seen.path or seen.method not in ("GET", "HEAD")] == []


@orchestrated
def test_the_tag_is_written_after_everything_else(place: Place, proxy: Proxy) -> None:
    run(place.parameters(f"{proxy.host}/{unique_name('target')}:1", verify=False))

    written = [seen.path for seen in proxy.seen if seen.method in ("PUT", "POST", "PATCH")]
    assert [path for path in written if "/manifests/" in path] == written[-1:]
    assert written[-1].endswith("/manifests/1")


@orchestrated
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


@orchestrated
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


@orchestrated
def test_a_registry_that_is_busy_is_asked_again(place: Place, proxy: Proxy) -> None:
    from prefect import flow

    layer = fetched(place).layers[0]
    job = replace(place.job(), source=Location(f"{proxy.host}/{place.name}:1", registry=EASY))
    proxy.fail("GET", "/blobs/", status(503), times=2)

    @flow
    def pull() -> int:
        return layers.pull_layer.with_options(retry_delay_seconds=0)(job, layer, {}).size

    assert pull() == layer.descriptor.size
    assert len(proxy.requests("GET", "/blobs/")) == 3
    assert job.store.has(layer.descriptor.digest, layer.descriptor.size)


@orchestrated
@pytest.mark.parametrize(("code", "error"), [(404, NotFound), (403, NydusifyError), (503, RetryLater)])
def test_only_what_may_pass_is_tried_again(place: Place, proxy: Proxy, code: int, error: type[Exception]) -> None:
    from prefect import flow

    layer = fetched(place).layers[0]
    job = replace(place.job(), source=Location(f"{proxy.host}/{place.name}:1", registry=EASY))
    proxy.fail("GET", "/blobs/", status(code), times=99)

    @flow
    def pull() -> None:
        layers.pull_layer.with_options(retry_delay_seconds=0)(job, layer, {})

    with pytest.raises(error):
        pull()
    assert len(proxy.requests("GET", "/blobs/")) == (4 if code == 503 else 1)


@orchestrated
def test_a_damaged_layer_is_not_tried_again(place: Place) -> None:
    layer = replace(fetched(place).layers[0], diff_id=Digest.of(b"something else"))

    state = layers.build_layer(place.job(), layer, return_state=True)

    assert state.is_failed()
    assert isinstance(state.result(raise_on_failure=False), FormatError)
    assert "etry" not in (state.message or "")


# Tasks without a server


def fetched(place: Place) -> Fetched:
    return images.fetch_manifest.fn(place.job())


def test_the_steps_make_an_image_one_by_one(place: Place, quiet: None) -> None:
    job = place.job()
    found = images.fetch_manifest.fn(job)
    done = {}
    for layer in found.layers:
        pulled = layers.pull_layer.fn(job, layer, found.at_target)
        built = layers.build_layer.fn(job, layer, pulled)
        assert (pulled.size, built.layer.origin) == (layer.descriptor.size, "built")
        assert layers.push_blob.fn(job, built).size == built.layer.facts.blob_size
        assert layers.push_blob.fn(job, built).size == 0
        done[layer.descriptor.digest] = built.layer
    merged = [images.steps.merge(job, image, done) for image in found.images]

    with pytest.raises(NotFound):
        resolved(str(job.target))
    published = images.steps.publish(job, found.images, done, merged)

    assert images.verify.fn(job, published).elapsed_ns > 0
    assert resolved(str(job.target)).digest == published.root.digest
    assert set(published.sent.values()) == {0}


def test_a_build_pulls_what_was_pruned_since_the_pull(place: Place, quiet: None) -> None:
    job = place.job()
    layer = fetched(place).layers[0]
    pulled = layers.pull_layer.fn(job, layer, {})
    job.store.path(layer.descriptor.digest).unlink()

    assert layers.build_layer.fn(job, layer, pulled).layer.facts.diff_id == layer.diff_id


def test_a_layer_at_the_target_is_neither_pulled_nor_built(place: Place, quiet: None, tmp_path: Path) -> None:
    target = place.target()
    nydusify.convert(place.source, target, ConvertOptions(store=tmp_path / "elsewhere"))
    job = place.job(target)
    found = images.fetch_manifest.fn(job)
    layer = found.layers[1]

    pulled = layers.pull_layer.fn(job, layer, found.at_target)
    built = layers.build_layer.fn(job, layer, pulled)

    assert (pulled.size, built.layer.origin, layers.push_blob.fn(job, built).size) == (0, "target", 0)
    assert not job.store.path(layer.descriptor.digest).exists()


def test_a_blob_that_is_gone_is_an_error_before_the_manifest(place: Place, quiet: None) -> None:
    job = place.job()
    layer = fetched(place).layers[0]
    built = layers.build_layer.fn(job, layer, layers.pull_layer.fn(job, layer, {}))
    job.store.path(built.layer.facts.blob).unlink()

    with pytest.raises(StoreError, match="is gone"):
        layers.push_blob.fn(job, built)


def test_what_a_build_returns_is_small_and_survives_as_json(place: Place, quiet: None) -> None:
    from prefect.serializers import JSONSerializer

    layer = fetched(place).layers[0]
    built = layers.build_layer.fn(place.job(), layer, None)

    kept = JSONSerializer().dumps(built)
    assert len(kept) < 4096
    assert JSONSerializer().loads(kept) == built


def test_the_cache_key_changes_with_all_that_determines_a_blob(place: Place, quiet: None) -> None:
    job, (one, two) = place.job(), fetched(place).layers
    other = ConvertParameters(source=place.source, target=place.target(), chunk_size=0x10000).job()
    keys = [
        layers.build_key(None, {"job": job, "layer": layer})  # type: ignore[arg-type]
        for job, layer in ((job, one), (job, two), (other, one), (job, replace(one, diff_id=two.diff_id)))
    ]

    assert len(set(keys)) == 4
    assert layers.build_key(None, {"job": place.job(), "layer": one}) == keys[0]  # type: ignore[arg-type]


# The form


def test_the_form_has_a_title_and_a_description_everywhere() -> None:
    properties = ConvertParameters.model_json_schema()["properties"]

    assert [name for name, field in properties.items() if not field.get("title") or not field.get("description")] == []
    assert properties["compressor"]["enum"] == ["zstd", "lz4_block", "none"]
    assert properties["fs_version"]["enum"] == [6, 5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunk_size": 5000},
        {"chunk_size": 1 << 30},
        {"fs_version": 7},
        {"compressor": "gzip"},
        {"platforms": ["linux"]},
        {"target": "registry.test/app:1"},
        {"target": "registry.test/app@sha256:" + 64 * "0"},
        {"reports": "s3://key:hunter2@bucket/reports"},
        {"nosuch": 1},
    ],
)
def test_wrong_parameters_are_refused_without_repeating_them(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", ".")) as error:
        ConvertParameters(**{"source": "registry.test/app:1", "target": "registry.test/app:2"} | wrong)
    assert "hunter2" not in str(error.value)


def test_a_job_refuses_what_the_library_refuses() -> None:
    with pytest.raises(UsageError, match="names a digest"):
        Job(Location("registry.test/app:1"), Location("registry.test/app@sha256:" + 64 * "0"))
