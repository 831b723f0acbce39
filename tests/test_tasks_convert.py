"""The tasks of a conversion by themselves, without a Prefect server, and the form of their parameters."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nydusify
from nydusify.conversion import steps
from nydusify.conversion.job import Job
from nydusify.conversion.location import Location
from nydusify.convert import ConvertOptions
from nydusify.errors import NotFound, StoreError, UsageError
from tests.flow_places import Place, place_fixture, resolved  # noqa: F401

pytest.importorskip("prefect")

from prefect.logging import disable_run_logger

from flows.convert import ConvertParameters
from tasks import images, layers


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with disable_run_logger():
        yield


def test_the_steps_make_an_image_one_by_one(place: Place) -> None:
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
    merged = [steps.merge(job, image, done) for image in found.images]

    with pytest.raises(NotFound):
        resolved(str(job.target))
    published = steps.publish(job, found.images, done, merged)

    assert images.verify.fn(job, published).elapsed_ns > 0
    assert resolved(str(job.target)).digest == published.root.digest
    assert set(published.sent.values()) == {0}


def test_a_build_pulls_what_was_pruned_since_the_pull(place: Place) -> None:
    job = place.job()
    layer = place.fetched().layers[0]
    pulled = layers.pull_layer.fn(job, layer, {})
    job.store.path(layer.descriptor.digest).unlink()

    assert layers.build_layer.fn(job, layer, pulled).layer.facts.diff_id == layer.diff_id


def test_a_layer_at_the_target_is_neither_pulled_nor_built(place: Place, tmp_path: Path) -> None:
    target = place.target()
    nydusify.convert(place.source, target, ConvertOptions(store=tmp_path / "elsewhere"))
    job = place.job(target)
    found = images.fetch_manifest.fn(job)
    layer = found.layers[1]

    pulled = layers.pull_layer.fn(job, layer, found.at_target)
    built = layers.build_layer.fn(job, layer, pulled)

    assert (pulled.size, built.layer.origin, layers.push_blob.fn(job, built).size) == (0, "target", 0)
    assert not job.store.path(layer.descriptor.digest).exists()


def test_a_blob_that_is_gone_is_an_error_before_the_manifest(place: Place) -> None:
    job = place.job()
    layer = place.fetched().layers[0]
    built = layers.build_layer.fn(job, layer, layers.pull_layer.fn(job, layer, {}))
    job.store.path(built.layer.facts.blob).unlink()

    with pytest.raises(StoreError, match="is gone"):
        layers.push_blob.fn(job, built)


def test_what_tasks_hand_on_can_travel_to_other_processes(place: Place) -> None:
    job, found = place.job(), place.fetched()

    assert pickle.loads(pickle.dumps((job, found))) == (job, found)


def test_what_a_build_returns_is_small_and_survives_as_json(place: Place) -> None:
    from prefect.serializers import JSONSerializer

    layer = place.fetched().layers[0]
    built = layers.build_layer.fn(place.job(), layer, None)

    kept = JSONSerializer().dumps(built)
    assert len(kept) < 4096
    assert JSONSerializer().loads(kept) == built


def test_the_cache_key_changes_with_all_that_determines_a_blob(place: Place) -> None:
    job, (one, two) = place.job(), place.fetched().layers
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
        {"prefetch": ["usr/bin"]},
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
