"""The kernel's EROFS mounts a v6 bootstrap, its blobs as devices, and shows what unpackers make of the layers."""

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nydusify.build.options import BuildOptions
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.spec import Compressor, Digester
from nydusify.rafs.writer import write_bootstrap
from tests.layers import DATA, MERGED, build, expected, merge
from tests.trees import ABOUT_THE_LAYER, KINDS, Entry, Tree, device_images, differences, encode_xattrs, quote

MS_RDONLY, MNT_DETACH = 1, 2
NOT_SUPPORTED = {errno.EPERM, errno.ENODEV, errno.ENOTBLK, errno.EINVAL, errno.EOPNOTSUPP}
"""The kernel wants a block device, or cannot read the file system of the file that way."""

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: Path, target: Path, devices: list[Path]) -> None:
    options = ",".join(f"device={device}" for device in devices).encode() or None
    if libc.mount(os.fsencode(source), os.fsencode(target), b"erofs", ctypes.c_ulong(MS_RDONLY), options):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def mounted(directory: Path, bootstrap: bytes, images: list[bytes]) -> Iterator[Path]:
    """Mount ``bootstrap`` in ``directory``, the blobs' plain data being files there; gives the mount point."""
    source, target = directory / "image.boot", directory / "mnt"
    source.write_bytes(bootstrap)
    target.mkdir()
    devices = [directory / f"device{number}" for number in range(len(images))]
    for device, image in zip(devices, images, strict=True):
        device.write_bytes(image)
    mount(source, target, devices)
    try:
        yield target
    finally:
        libc.umount2(os.fsencode(target), MNT_DETACH)


@pytest.fixture(scope="module", autouse=True)
def _kernel_mounts_files_as_erofs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tried with a bootstrap of the reference builder, so that a mistake of ours cannot pass for a missing feature."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    if "\terofs\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no EROFS")
    probe = (DATA / "bootstraps/v6-zstd.boot").read_bytes()
    images = [bytes(blob.uncompressed_size) for blob in read_bootstrap(probe).blobs]
    try:
        with mounted(tmp_path_factory.mktemp("probe"), probe, images) as root:
            assert os.listdir(root)
    except OSError as error:
        if error.errno in NOT_SUPPORTED:
            pytest.skip(f"this kernel does not mount a file of {tmp_path_factory.getbasetemp()} as EROFS: {error}")
        raise


def tree_at(root: Path) -> Tree:
    """Every entry below ``root`` by what lstat, readlink, xattrs and its bytes say."""
    found: Tree = {}
    todo = [(b"/", os.fsencode(root))]
    while todo:
        path, place = todo.pop()
        found[quote(path)] = entry_at(path, place)
        if found[quote(path)]["type"] == "dir":
            prefix = path if path == b"/" else path + b"/"
            todo += [(prefix + name, place + b"/" + name) for name in os.listdir(place)]
    return found


def entry_at(path: bytes, place: bytes) -> Entry:
    status = os.lstat(place)
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    made: Entry = {
        "path": quote(path),
        "type": kind,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_s": status.st_mtime_ns // 10**9,
        "mtime_ns": status.st_mtime_ns % 10**9,
        "nlink": status.st_nlink,
    }
    if kind == "symlink":
        made |= {"link": quote(os.readlink(place)), "size": status.st_size}
    elif kind == "file":
        with open(place, "rb") as file:
            made |= {"size": status.st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    elif kind in ("char", "block"):
        made["rdev"] = (os.minor(status.st_rdev) & 0xFF) | os.major(status.st_rdev) << 8
        made["rdev"] |= (os.minor(status.st_rdev) & ~0xFF) << 12
    names = os.listxattr(place, follow_symlinks=False)
    if names:
        xattrs = {os.fsencode(name): os.getxattr(place, name, follow_symlinks=False) for name in names}
        made["xattrs"] = encode_xattrs(xattrs)
    return made


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(),
        BuildOptions(chunk_size=4096, compressor=Compressor.LZ4_BLOCK),
        BuildOptions(compressor=Compressor.NONE, digester=Digester.SHA256),
    ],
    ids=["default", "4k-lz4", "plain-sha256"],
)
@pytest.mark.parametrize("image", ["merged-small", "merged-full", "merged-hardlink-lower", "merged-whiteout-lowest"])
def test_the_kernel_shows_what_unpackers_make_of_the_layers(image: str, options: BuildOptions, tmp_path: Path) -> None:
    layers = [build(name, options) for name in MERGED[image]]
    merged = merge(layers, [b"/"])
    images = device_images(merged, {layer.facts.blob.hex: layer.blob for layer in layers})

    with mounted(tmp_path, write_bootstrap(merged), images) as root:
        lines = differences(expected(image), tree_at(root), ABOUT_THE_LAYER)
    assert lines == []


@pytest.mark.parametrize("name", ["04-small", "05-nodata", "06-upper", "07-tiny", "01-base", "x-xattr-newline"])
def test_the_kernel_mounts_the_bootstrap_of_a_single_layer(name: str, tmp_path: Path) -> None:
    layer = build(name, BuildOptions())
    images = device_images(layer.read(), {layer.facts.blob.hex: layer.blob})

    with mounted(tmp_path, layer.bootstrap_bytes, images) as root:
        assert differences(expected(name), tree_at(root), ABOUT_THE_LAYER) == []
