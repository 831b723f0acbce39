"""Push and pull against a real registry, without faults."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, FormatError, NotFound, StoreError, UsageError
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.repository import Repository
from nydusify.registry.client import RegistryRepository
from nydusify.registry.options import RegistryOptions
from tests.registry_helpers import FAST, MANIFEST, blob, manifest_of, repository
from tests.servers import Registry, need, unique_name


def test_an_image_comes_back_as_it_was_pushed(registry: Registry, repository_name: str) -> None:
    content, config = blob(3_000_001)
    manifest, descriptor = manifest_of(config)
    with repository(registry.host, repository_name) as there:
        assert there.write_blob(config, content) == len(content)
        there.write_manifest(descriptor, manifest, "latest")

    with repository(registry.host, repository_name) as there:
        found = there.resolve("latest")
        assert (found, there.resolve(str(found.digest))) == (descriptor, descriptor)
        assert there.read_manifest(found) == manifest
        assert b"".join(there.open_blob(config)) == content
        assert there.stats.requests == 3
        assert there.stats.bytes_pulled == len(content) + 2 * len(manifest)


def test_a_manifest_can_be_pushed_by_digest_alone(registry: Registry, repository_name: str) -> None:
    content, config = blob(10)
    manifest, descriptor = manifest_of(config)
    with repository(registry.host, repository_name) as there:
        there.write_blob(config, content)
        there.write_manifest(descriptor, manifest)
        with pytest.raises(NotFound):
            there.resolve("latest")

    with repository(registry.host, repository_name) as there:
        assert there.read_manifest(descriptor) == manifest


def test_other_clients_read_what_was_pushed(registry: Registry, repository_name: str, tmp_path: Path) -> None:
    skopeo = need("skopeo")
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    described = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(config), len(config))
    manifest, descriptor = manifest_of(described)
    with repository(registry.host, repository_name) as there:
        there.write_blob(described, config)
        there.write_manifest(descriptor, manifest, "v1")

    command = [skopeo, "inspect", "--tls-verify=false", "--format", "{{.Digest}}"]
    shown = subprocess.run([*command, f"docker://{registry.host}/{repository_name}:v1"], capture_output=True, text=True)

    assert shown.stdout.strip() == str(descriptor.digest), shown.stderr


def test_a_file_is_pushed_and_what_is_there_is_skipped(
    registry: Registry, repository_name: str, tmp_path: Path
) -> None:
    content, descriptor = blob(5_000_000)
    path = tmp_path / "blob"
    path.write_bytes(content)
    with repository(registry.host, repository_name) as there:
        assert not there.has_blob(descriptor)
        assert there.write_blob(descriptor, path) == len(content)
        assert there.has_blob(descriptor)
        assert there.write_blob(descriptor, path) == 0
        assert there.stats.bytes_pushed == len(content)


def test_a_blob_in_chunks_is_the_same_blob(registry: Registry, repository_name: str) -> None:
    content, descriptor = blob(2_500_000)
    with repository(registry.host, repository_name, push_chunk_size=1_000_000) as there:
        assert there.write_blob(descriptor, content) == len(content)
        assert there.stats.requests == 5  # HEAD, POST, 2 PATCH, PUT with the last chunk
        assert b"".join(there.open_blob(descriptor)) == content


def test_an_empty_blob_can_be_stored(registry: Registry, repository_name: str) -> None:
    content, descriptor = blob(0)
    with repository(registry.host, repository_name) as there:
        there.write_blob(descriptor, content)
        assert there.has_blob(descriptor)
        assert b"".join(there.open_blob(descriptor)) == b""


def test_a_blob_is_mounted_instead_of_sent(registry: Registry) -> None:
    content, descriptor = blob(100_000, "mount")
    source, target = unique_name(), unique_name()
    with repository(registry.host, source) as there:
        there.write_blob(descriptor, content)
    with repository(registry.host, target) as there:
        assert there.write_blob(descriptor, content, mount_from=source) == 0
        assert there.stats.bytes_pushed == 0
        assert b"".join(there.open_blob(descriptor)) == content


def test_a_blob_that_cannot_be_mounted_is_sent(registry: Registry, repository_name: str) -> None:
    content, descriptor = blob(100_000, "no mount")
    with repository(registry.host, repository_name) as there:
        assert there.write_blob(descriptor, content, mount_from=unique_name()) == len(content)
        assert there.stats.requests == 3  # HEAD, POST with mount, PUT
        assert there.has_blob(descriptor)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 10), (100, 1), (65_500, 200_000), (299_990, 10), (0, 300_000), (7, 0)]
)
def test_a_range_is_exactly_what_was_asked_for(
    registry: Registry, repository_name: str, offset: int, length: int
) -> None:
    content, descriptor = blob(300_000)
    with repository(registry.host, repository_name) as there:
        there.write_blob(descriptor, content)
        assert there.read_blob_range(descriptor, offset, length) == content[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (5, -1), (299_999, 2), (300_001, 0)])
def test_a_range_outside_the_blob_is_refused(registry: Registry, offset: int, length: int) -> None:
    _, descriptor = blob(300_000)
    with repository(registry.host, "any/name") as there, pytest.raises(FormatError):
        there.read_blob_range(descriptor, offset, length)


def test_what_is_not_there_is_not_found(registry: Registry, repository_name: str) -> None:
    _, descriptor = blob(10, "absent")
    with repository(registry.host, repository_name) as there:
        with pytest.raises(NotFound, match=r"pull manifest nowhere from .*HTTP 404: \w+: .* unknown"):
            there.resolve("nowhere")
        with pytest.raises(NotFound):
            b"".join(there.open_blob(descriptor))
        with pytest.raises(NotFound):
            there.read_blob_range(descriptor, 0, 5)
        assert not there.has_blob(descriptor)
        assert there.stats.retries == 0


def test_content_that_is_not_what_the_descriptor_says_is_not_pushed(
    registry: Registry, repository_name: str, tmp_path: Path
) -> None:
    content, descriptor = blob(1000)
    manifest, described = manifest_of(descriptor)
    with repository(registry.host, repository_name) as there:
        with pytest.raises(DigestMismatch):
            there.write_blob(descriptor, content[:-1])
        with pytest.raises(DigestMismatch):
            there.write_blob(descriptor, bytes(1000))
        with pytest.raises(DigestMismatch):
            there.write_manifest(described, manifest + b" ", "tag")
        with pytest.raises(StoreError, match="missing-file"):
            there.write_blob(descriptor, tmp_path / "missing-file")
        assert not there.has_blob(descriptor)


def test_a_descriptor_with_a_wrong_size_is_noticed(registry: Registry, repository_name: str) -> None:
    content, descriptor = blob(1000)
    wrong = Descriptor(descriptor.media_type, descriptor.digest, 999)
    with repository(registry.host, repository_name) as there:
        there.write_blob(descriptor, content)
        assert not there.has_blob(wrong)
        with pytest.raises(DigestMismatch):
            b"".join(there.open_blob(wrong))


def test_many_threads_share_connections(registry: Registry, repository_name: str) -> None:
    blobs = [blob(200_000, seed) for seed in range(12)]
    with repository(registry.host, repository_name) as there, ThreadPoolExecutor(6) as pool:
        sent = list(pool.map(lambda pair: there.write_blob(pair[1], pair[0]), blobs))
        pulled = list(pool.map(lambda pair: b"".join(there.open_blob(pair[1])), blobs))
        assert sent == [200_000] * 12
        assert pulled == [content for content, _ in blobs]
        assert there.stats.requests == 12 * 3 + 12


def test_a_download_may_move_from_thread_to_thread(registry: Registry, repository_name: str) -> None:
    content, descriptor = blob(3_000_000)
    with repository(registry.host, repository_name) as there:
        there.write_blob(descriptor, content)
        pieces = there.open_blob(descriptor)
        read = [next(pieces)]
        thread = threading.Thread(target=lambda: read.extend(pieces))
        thread.start()
        thread.join(20)
        assert b"".join(read) == content


def test_a_download_that_is_given_up_leaves_the_repository_usable(registry: Registry, repository_name: str) -> None:
    content, descriptor = blob(3_000_000)
    with repository(registry.host, repository_name) as there:
        there.write_blob(descriptor, content)
        pieces = there.open_blob(descriptor)
        next(pieces)
        del pieces
        assert b"".join(there.open_blob(descriptor)) == content


def test_closing_one_repository_does_not_disturb_another(registry: Registry, repository_name: str) -> None:
    content, descriptor = blob(1000)
    one, other = (RegistryRepository(registry.host, repository_name, FAST) for _ in range(2))
    one.write_blob(descriptor, content)
    one.close()
    one.close()
    assert b"".join(other.open_blob(descriptor)) == content
    other.close()


def test_it_is_a_repository_as_the_protocol_has_it(registry: Registry) -> None:
    opened: Repository = RegistryRepository(registry.host, "any/name")
    assert opened.name == f"{registry.host}/any/name"
    opened.close()


@pytest.mark.parametrize("registry_name", ["", "user:secret@host", "host/path", "host?query", "host:port", "a b"])
def test_what_cannot_be_a_registry_is_refused_without_showing_a_password(registry_name: str) -> None:
    with pytest.raises(UsageError) as caught:
        RegistryRepository(registry_name, "app")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"retry_count": -1}, {"retry_delay": -0.1}, {"read_timeout": 0}, {"concurrency": 0}]
)
def test_options_that_make_no_sense_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        RegistryOptions(**change)  # type: ignore[arg-type]


def test_http2_and_the_command_line_of_httpx_are_not_loaded_but_stay_usable() -> None:
    script = (
        "import sys\n"
        "from nydusify.registry.client import RegistryRepository\n"
        "assert not {'h2', 'rich', 'click', 'pygments', 'prefect'} & {*sys.modules}\n"
        "import httpx, httpcore\n"
        "from httpcore._async.http2 import AsyncHTTP2Connection\n"
        "httpx.Client(http2=True).close()\n"
        "httpx.AsyncClient(http2=True)\n"
        "import httpx._main\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent.parent)


def test_a_manifest_over_4_mib_is_not_read(registry: Registry, repository_name: str) -> None:
    _, descriptor = blob(10)
    huge = Descriptor(MANIFEST, descriptor.digest, 5 << 20)
    with repository(registry.host, repository_name) as there, pytest.raises(FormatError, match="4 MiB"):
        there.read_manifest(huge)
