"""`nydusify.convert` between registries: what is asked of them, what a failing one leaves, and what other tools see."""

import json
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nydusify.build.options import BuildOptions
from nydusify.conversion.publish import ImageOptions
from nydusify.conversion.result import ConvertResult
from nydusify.convert import ConvertOptions, convert
from nydusify.digest import Digest
from nydusify.errors import AuthError, DigestMismatch, NotFound, TransportError
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.layout import LayoutRepository
from nydusify.oci.manifest import Index
from nydusify.reports.dataset import read
from tests.conversions import Place, golden_image, layout, place_at, read_image, store_index, stored
from tests.faults import Proxy, Seen, cut_download, status
from tests.layers import MERGED, expected
from tests.oci_images import SmallImage, contents
from tests.registry_helpers import FAST, repository, stored_blob
from tests.servers import Registry, unique_name, write_docker_config
from tests.trees import ABOUT_THE_LAYER, differences

NAMES = ("04-small", "07-tiny", "06-upper")
FOR_EVER = 1 << 30


@pytest.fixture
def place(proxy: Proxy) -> Place:
    """Behind the proxy that sees every request."""
    return place_at(proxy.host, replace(FAST, retry_count=2))


def options(tmp_path: Path, store: str = "store", **changes: Any) -> ConvertOptions:
    """Options for an own store and own reports; ``changes`` are of `ConvertOptions` or `ImageOptions`."""
    known = ImageOptions.__dataclass_fields__
    image = ImageOptions(**{name: value for name, value in changes.items() if name in known})
    rest = {name: value for name, value in changes.items() if name not in known}
    return ConvertOptions(image, store=tmp_path / store, reports=str(tmp_path / "reports"), **rest)


def origins(result: ConvertResult) -> list[str]:
    return [one.built.origin for one in result.layers]


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read("conversions", str(tmp_path / "reports")).to_pylist()
    return sorted(found, key=lambda row: row["started_at"])


def body_bytes(seen: list[Seen]) -> int:
    return sum(int(one.headers.get("content-length", 0)) for one in seen)


def without_layers(proxy: Proxy, place: Place, image: SmallImage) -> bool:
    """Whether no layer of the source was asked for."""
    paths = [seen.path for seen in proxy.requests("GET", f"/{place.source_name}/blobs/")]
    return not any(layer.digest.hex in path for path in paths for layer in image.manifest.layers)


@pytest.mark.parametrize("several", [False, True])
def test_a_second_run_with_nothing_changed_makes_no_blob_request(
    tmp_path: Path, proxy: Proxy, place: Place, several: bool
) -> None:
    if several:
        with repository(place.host, place.source_name) as opened:
            store_index(opened, "1", "amd64", "arm64")
    else:
        place.store(golden_image(*NAMES))
    wanted = options(tmp_path, all_platforms=several, merge_platform=several)
    first = convert(place.source, place.target, wanted)
    proxy.seen.clear()
    second = convert(place.source, place.target, wanted)

    assert (first.unchanged, second.unchanged) == (False, True)
    assert second.target_digest == first.target_digest == place.tagged().digest
    assert proxy.requests("GET", "/manifests/") + proxy.requests("HEAD", "/manifests/")
    assert [seen for seen in proxy.seen if "/blobs/" in seen.path or seen.method not in ("GET", "HEAD")] == []
    assert [row["verdict"] for row in rows(tmp_path)] == ["verified"] * (1 + several) + ["unchanged"] * (1 + several)


@pytest.mark.parametrize("version", [6, 5])
def test_only_the_layer_that_changed_is_pulled_built_and_pushed(
    tmp_path: Path, proxy: Proxy, place: Place, version: int
) -> None:
    build = BuildOptions(version)
    place.store(golden_image("04-small", "07-tiny"))
    convert(place.source, place.target, options(tmp_path, build=build))
    changed = golden_image("04-small", "06-upper")
    place.store(changed)
    proxy.seen.clear()
    result = convert(place.source, place.target, options(tmp_path, "empty", build=build))
    fresh = convert(place.source, layout(tmp_path / "layout"), options(tmp_path, "fresh", build=build))

    lower, upper = result.layers
    assert origins(result) == ["target", "built"]
    assert result.target_digest == fresh.target_digest == place.tagged().digest
    sent = [seen.path for seen in proxy.requests("PUT", "/blobs/")]
    assert not any(lower.built.facts.blob.hex in path for path in sent)
    assert any(upper.built.facts.blob.hex in path for path in sent)
    looked_into = proxy.requests("GET", f"/{place.target_name}/blobs/{lower.built.facts.blob}")
    assert looked_into
    assert all("range" in seen.headers for seen in looked_into)
    row = rows(tmp_path)[1]
    assert (row["pulled_bytes"], row["reused_bytes"]) == tuple(one.size for one in reversed(changed.manifest.layers))


def test_layers_at_the_target_are_not_asked_of_the_source(tmp_path: Path, proxy: Proxy, place: Place) -> None:
    place.store(golden_image("04-small"))
    convert(place.source, place.target, options(tmp_path))
    proxy.seen.clear()
    result = convert(place.source, place.target, options(tmp_path, "empty", prefetch=(b"/usr",)))

    assert (origins(result), result.unchanged) == (["target"], False)
    assert without_layers(proxy, place, golden_image("04-small"))


@pytest.mark.parametrize("part", ["lowest blob", "highest blob", "bootstrap", "config", "manifest"])
def test_a_failing_push_leaves_the_tag_as_it_was_and_a_rerun_completes_it_without_pulling(
    tmp_path: Path, proxy: Proxy, place: Place, part: str
) -> None:
    place.store(golden_image("05-nodata"))
    old = convert(place.source, place.target, options(tmp_path)).target_digest
    image = golden_image(*NAMES)
    place.store(image)
    wanted = convert(place.source, layout(tmp_path / "layout"), options(tmp_path, "other"))
    local = LayoutRepository(tmp_path / "layout")
    manifest = read_image(local, local.resolve("1")).manifest
    failing = {
        "lowest blob": manifest.layers[0].digest.hex,
        "highest blob": manifest.layers[2].digest.hex,
        "bootstrap": manifest.layers[3].digest.hex,
        "config": manifest.config.digest.hex,
        "manifest": f"/{place.target_name}/manifests/",
    }[part]
    proxy.fail("PUT", failing, status(500, b"the disk is full"), FOR_EVER)
    with pytest.raises(TransportError, match="500"):
        convert(place.source, place.target, options(tmp_path))
    assert len(proxy.requests("PUT", failing)) >= 1 + place.options.retry_count
    assert place.tagged().digest == old

    proxy.faults.clear()
    proxy.seen.clear()
    result = convert(place.source, place.target, options(tmp_path))

    assert result.target_digest == wanted.target_digest == place.tagged().digest
    assert origins(result) == ["store"] * 3
    assert without_layers(proxy, place, image)
    assert [row["verdict"] for row in rows(tmp_path)] == ["verified", "verified", "failed", "verified"]
    assert rows(tmp_path)[2]["retries"] >= place.options.retry_count


def test_a_source_that_fails_leaves_no_tag_and_a_failed_row(tmp_path: Path, proxy: Proxy, place: Place) -> None:
    image = golden_image(*NAMES)
    place.store(image)
    proxy.fail("GET", image.manifest.layers[1].digest.hex, status(503), FOR_EVER)
    with pytest.raises(TransportError) as raised:
        convert(place.source, place.target, options(tmp_path))

    with pytest.raises(NotFound):
        place.tagged()
    row = rows(tmp_path)[0]
    assert (row["verdict"], row["error_class"]) == ("failed", raised.type.__name__)


def test_a_layer_that_is_damaged_in_the_registry_leaves_no_tag(tmp_path: Path, registry: Registry) -> None:
    place = place_at(registry.host)
    good = golden_image("07-tiny")
    content = good.blobs[good.manifest.layers[0].digest]
    # The blobs of a registry are shared: one that is damaged needs a gzip time stamp of its own.
    unique = content[:4] + Digest.of(unique_name().encode()).hex[:4].encode() + content[8:]
    described = Descriptor(media.OCI_LAYER_GZIP, Digest.of(unique), len(unique))
    image = SmallImage(replace(good.manifest, layers=(described,)), {**good.blobs, described.digest: unique})
    place.store(image)
    stored_blob(registry.storage, described.digest).write_bytes(content)

    with pytest.raises(DigestMismatch):
        convert(place.source, place.target, options(tmp_path))
    with pytest.raises(NotFound):
        place.tagged()


def test_a_cut_pull_is_taken_up_again_and_counted(tmp_path: Path, proxy: Proxy, place: Place) -> None:
    image = golden_image("04-small")
    place.store(image)
    proxy.fail("GET", image.manifest.layers[0].digest.hex, cut_download(50_000))
    result = convert(place.source, place.target, options(tmp_path))

    row = rows(tmp_path)[0]
    assert (row["retries"], row["pulled_bytes"], row["verdict"]) == (1, image.manifest.layers[0].size, "verified")
    with repository(place.host, place.target_name) as opened:
        tree = read_image(opened, place.tagged()).tree
    assert differences(expected("04-small"), tree, ABOUT_THE_LAYER) == []
    assert origins(result) == ["built"]


def test_rows_agree_with_what_went_over_the_wire(tmp_path: Path, proxy: Proxy, place: Place) -> None:
    image = golden_image(*NAMES)
    place.store(image)
    proxy.seen.clear()
    convert(place.source, place.target, options(tmp_path))
    first = body_bytes(proxy.requests("PUT"))
    with repository(place.host, unique_name("mirror")) as mirror:
        elsewhere = replace(place, target_name=mirror.name.partition("/")[2])
        proxy.seen.clear()
        convert(place.source, elsewhere.target, options(tmp_path))
        second = body_bytes(proxy.requests("PUT"))
    compressed = sum(layer.size for layer in image.manifest.layers)
    table = rows(tmp_path)

    assert [row["pushed_bytes"] for row in table] == [first, second]
    assert [row["pulled_bytes"] for row in table] == [compressed, 0]
    assert [row["reused_bytes"] for row in table] == [0, compressed]
    assert without_layers(proxy, place, image)
    layers = read("layers", str(tmp_path / "reports")).to_pylist()
    assert sum(one["pulled_bytes"] for one in layers) == compressed
    assert sum(one["blob_bytes"] for one in layers) == sum(one["pushed_bytes"] for one in layers)


def test_plain_layers_of_a_merged_index_are_mounted_and_not_uploaded(
    tmp_path: Path, proxy: Proxy, place: Place
) -> None:
    image = golden_image(*NAMES)
    place.store(image)
    proxy.seen.clear()
    convert(place.source, place.target, options(tmp_path, merge_platform=True))

    sent = [seen.path for seen in proxy.requests("PUT", "/blobs/")]
    assert not any(layer.digest.hex in path for path in sent for layer in image.manifest.layers)
    mounts = [seen.path for seen in proxy.requests("POST", "mount=")]
    assert all(any(layer.digest.hex in path for path in mounts) for layer in image.manifest.layers)
    with repository(place.host, place.target_name) as opened:
        found = contents(opened, place.tagged())
    assert all(digest == f"sha256:{actual}" for digest, actual in found.items())
    assert found.keys() >= {str(layer.digest) for layer in image.manifest.layers}


@dataclass(frozen=True)
class Guarded:
    """A registry that wants credentials, and how skopeo gets in."""

    registry: Registry
    place: Place
    skopeo: tuple[str, ...]


@pytest.fixture(params=["tls_registry", "token_registry"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path, docker_config: Path) -> Guarded:
    """The registry with TLS and passwords, then the one with tokens; DOCKER_CONFIG has the credentials."""
    registry: Registry = request.getfixturevalue(request.param)
    registry.write_docker_config(docker_config)
    if registry.tokens is not None:
        registry.tokens.life = 300  # skopeo wants an integer
    changes: dict[str, Any] = {"ca_file": registry.ca_file} if registry.ca_file else {"plain_http": True}
    allowed = replace(FAST, **{"plain_http": False, **changes})
    arguments = ["--authfile", f"{docker_config}/config.json"]
    if registry.ca_file:
        certificates = tmp_path / "certificates"
        certificates.mkdir()
        shutil.copy(registry.ca_file, certificates / "ca.crt")
        arguments += ["--cert-dir", str(certificates)]
    else:
        arguments += ["--tls-verify=false"]
    return Guarded(registry, place_at(registry.host, allowed), tuple(arguments))


def skopeo(command: str, *arguments: object) -> str:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed (Debian package skopeo)")
    line = ["skopeo", "--insecure-policy", command, *(str(part) for part in arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_registries_that_want_credentials_are_source_and_target(tmp_path: Path, guarded: Guarded) -> None:
    place = guarded.place
    place.store(golden_image(*MERGED["merged-small"]))
    result = convert(place.source, place.target, options(tmp_path))
    again = convert(place.source, place.target, options(tmp_path))
    with repository(place.host, place.target_name, place.options) as opened:
        image = read_image(opened, place.tagged())

    assert (result.verdict, again.verdict) == ("verified", "unchanged")
    assert differences(expected("merged-small"), image.tree, ABOUT_THE_LAYER) == []


def test_wrong_credentials_write_nothing_and_the_password_is_never_told(
    tmp_path: Path, guarded: Guarded, docker_config: Path
) -> None:
    place = guarded.place
    source = stored(tmp_path / "source", golden_image("07-tiny"))
    guarded.registry.write_docker_config(docker_config, password="wr0ng-passw0rd")
    with pytest.raises(AuthError) as raised:
        convert(source, place.target, options(tmp_path))
    guarded.registry.write_docker_config(docker_config)

    with pytest.raises(NotFound):
        place.tagged()
    row = rows(tmp_path)[0]
    assert (row["verdict"], row["error_class"]) == ("failed", "AuthError")
    assert "passw0rd" not in f"{raised.value!r} {raised.value.advice} {row}"


def test_a_stranger_may_pull_from_the_token_registry_but_not_push(
    tmp_path: Path, token_registry: Registry, docker_config: Path
) -> None:
    token_registry.write_docker_config(docker_config)
    place = place_at(token_registry.host)
    place.store(golden_image("07-tiny"))
    write_docker_config(docker_config, {})
    pulled = convert(place.source, layout(tmp_path / "layout"), options(tmp_path))

    assert pulled.verdict == "verified"
    with pytest.raises(AuthError):
        convert(place.source, place.target, options(tmp_path))


def test_skopeo_reads_what_was_pushed(tmp_path: Path, guarded: Guarded) -> None:
    place = guarded.place
    place.store(golden_image(*MERGED["merged-small"]))
    result = convert(place.source, place.target, options(tmp_path))
    name = f"docker://{place.host}/{place.target_name}:nydus"
    raw = skopeo("inspect", "--raw", *guarded.skopeo, name)
    config = json.loads(skopeo("inspect", "--config", *guarded.skopeo, name))
    source_options = [f"--src-{part[2:]}" if part.startswith("--") else part for part in guarded.skopeo]
    skopeo("copy", *source_options, name, f"oci:{tmp_path}/copy:nydus")
    copy = LayoutRepository(tmp_path / "copy")

    assert Digest.of(raw.encode()) == result.target_digest
    assert [layer["mediaType"] for layer in json.loads(raw)["layers"][:-1]] == [media.NYDUS_BLOB] * 3
    assert (config["os"], config["architecture"], len(config["rootfs"]["diff_ids"])) == ("linux", "amd64", 4)
    assert copy.resolve("nydus").digest == result.target_digest
    assert differences(expected("merged-small"), read_image(copy, copy.resolve("nydus")).tree, ABOUT_THE_LAYER) == []


def test_skopeo_copies_a_merged_index_with_all_below_it(tmp_path: Path, registry: Registry) -> None:
    place = place_at(registry.host)
    with repository(place.host, place.source_name) as opened:
        store_index(opened, "1", "amd64", "arm64")
    result = convert(place.source, place.target, options(tmp_path, all_platforms=True, merge_platform=True))
    name = f"docker://{place.host}/{place.target_name}:nydus"
    skopeo("copy", "--all", "--src-tls-verify=false", name, f"oci:{tmp_path}/copy:nydus")
    copy = LayoutRepository(tmp_path / "copy")
    seen = json.loads(skopeo("inspect", "--tls-verify=false", "--override-arch", "arm64", name))

    ours, copied = result.target_digest, copy.resolve("nydus")
    with repository(place.host, place.target_name) as opened:
        below = {name: found for name, found in contents(opened, place.tagged()).items() if name != str(ours)}
    # An old skopeo drops artifactType from the index, whose digest is another then; what is below must stay.
    assert contents(copy, copied).items() >= below.items()
    assert len(Index.parse(copy.read_manifest(copied)).manifests) == 4
    assert seen["Name"] == f"{place.host}/{place.target_name}"
    assert seen["Architecture"] == "arm64"
    assert not {str(one.built.facts.blob) for one in result.layers} & set(seen["Layers"])


def test_what_skopeo_pushed_is_a_source(tmp_path: Path, registry: Registry) -> None:
    place = place_at(registry.host)
    stored(tmp_path / "source", golden_image(*MERGED["merged-small"]))
    skopeo(
        "copy", "--format=v2s2", "--dest-tls-verify=false", f"oci:{tmp_path}/source:1", f"docker://{place.source.name}"
    )
    result = convert(place.source, place.target, options(tmp_path, platforms=(Platform("linux", "amd64"),)))
    with repository(place.host, place.target_name) as opened:
        image = read_image(opened, place.tagged())

    assert result.target_media_type == media.DOCKER_MANIFEST
    assert differences(expected("merged-small"), image.tree, ABOUT_THE_LAYER) == []
