"""Reads the sections of a framed blob: table of contents, bootstrap, chunk information, chunk digests.

Source: nydus, storage/src/meta/toc.rs and builder/src/core/blob.rs.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from nydusify.errors import DigestMismatch, FormatError
from nydusify.rafs.blob import (
    CI_HEADER_SIZE,
    MAX_TOC_ENTRIES,
    SECTION_BOOTSTRAP,
    SECTION_CI,
    SECTION_CI_HEADER,
    SECTION_DATA,
    SECTION_DIGESTS,
    SECTION_TOC,
    TAR_HEADER,
    TOC_ENTRY,
    TOC_FLAG,
    parse_tar_header,
)
from nydusify.rafs.blob_source import BlobSource, read_range
from nydusify.rafs.chunk_info import ChunkInfo, parse_chunk_info
from nydusify.rafs.cipher import decrypt
from nydusify.rafs.codec import decompress
from nydusify.rafs.spec import BLOCK, DIGEST_SIZE, BlobFeature, Cipher, Compressor, align
from nydusify.rafs.tree import BlobInfo
from nydusify.rafs.v5 import MAX_BOOTSTRAP
from nydusify.rafs.validate import CI_RATIO, CI_SLACK, check_areas, check_chunk_information

_HEADER = TAR_HEADER.itemsize
_TAIL = 4096
_COMPRESSOR = {flag: compressor for compressor, flag in TOC_FLAG.items()}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a blob, in bytes. ``digest`` is the sha256 of the plain bytes; None where no table of contents is."""

    name: str
    offset: int
    size: int
    """As stored."""
    raw_size: int
    compressor: Compressor
    digest: bytes | None


def read_sections(blob: BlobSource) -> dict[str, Section]:
    """The sections of ``blob`` by name, from its table of contents or, without one, from its tar headers.

    Raises `FormatError` for a blob that has neither, such as one that is written beside its bootstrap.
    """
    tail = blob.read_at(max(blob.size - _TAIL, 0), min(blob.size, _TAIL))
    name, size = parse_tar_header(tail[-_HEADER:])
    if name != SECTION_TOC:
        return _walk_back(blob)
    if (
        not size
        or size % TOC_ENTRY.itemsize
        or size > MAX_TOC_ENTRIES * TOC_ENTRY.itemsize
        or size + _HEADER > len(tail)
    ):
        raise FormatError(f"a table of contents of {size} bytes")
    table = np.frombuffer(tail, TOC_ENTRY, size // TOC_ENTRY.itemsize, len(tail) - _HEADER - size)
    sections = [_section(entry) for entry in table]
    if len({section.name for section in sections}) != len(sections):
        raise FormatError("a table of contents with two sections of one name")
    check_areas([(section.name, section.offset, section.size) for section in sections], blob.size - _HEADER - size)
    return {section.name: section for section in sections}


def _section(entry: Any) -> Section:
    raw, flags = bytes(entry["name"]), int(entry["flags"])
    if not raw.isascii() or b"\0" in raw or flags not in _COMPRESSOR:
        raise FormatError(f"table of contents: section {raw!r} with flags {flags:#x}")
    section = Section(
        name=raw.decode("ascii"),
        offset=int(entry["offset"]),
        size=int(entry["csize"]),
        raw_size=int(entry["usize"]),
        compressor=_COMPRESSOR[flags],
        digest=bytes(entry["digest"]),
    )
    # The plain size of the data is that of the imaginary unpacked blob, although the section as such is not packed.
    if section.name != SECTION_DATA and section.raw_size > CI_RATIO * section.size + CI_SLACK:
        raise FormatError(f"section {section.name}: {section.size} bytes cannot unpack to {section.raw_size}")
    return section


def _walk_back(blob: BlobSource) -> dict[str, Section]:
    """Each header stands behind its section; a name comes once, so this ends soon."""
    sections: dict[str, Section] = {}
    position = blob.size
    while position:
        name, size = parse_tar_header(read_range(blob, "tar header", position - _HEADER, min(position, _HEADER)))
        position -= _HEADER + size
        if (
            position < 0
            or name in sections
            or name not in (SECTION_BOOTSTRAP, SECTION_DIGESTS, SECTION_CI, SECTION_DATA)
        ):
            raise FormatError(f"section {name!r} of {size} bytes: too long, twice, or unknown")
        sections[name] = Section(name, position, size, size, Compressor.NONE, None)
    return sections


def extract_bootstrap(blob: BlobSource) -> bytes:
    """The bootstrap inside a framed blob, unpacked and compared with the digest in the table of contents.

    Raises `FormatError` (`DigestMismatch`) for a blob that is damaged or has none.
    """
    section = read_sections(blob).get(SECTION_BOOTSTRAP)
    if section is None or section.raw_size > MAX_BOOTSTRAP:
        raise FormatError("a blob without a bootstrap, or with too large a one")
    stored = _with_header(blob, SECTION_BOOTSTRAP, section.offset, section.size)
    return _plain(section, stored)


def _with_header(blob: BlobSource, name: str, offset: int, size: int) -> bytes:
    """The stored bytes of a section, if the right tar header follows."""
    stored = read_range(blob, name, offset, size + _HEADER)
    if parse_tar_header(stored[size:]) != (name, size):
        raise FormatError(f"section {name}: another tar header follows its {size} bytes")
    return stored[:size]


def _plain(section: Section, stored: bytes) -> bytes:
    plain = decompress(section.compressor, stored, section.raw_size)
    _verify(section, plain)
    return plain


def _verify(section: Section, plain: bytes) -> None:
    if section.digest is not None and hashlib.sha256(plain).digest() != section.digest:
        raise DigestMismatch(f"section {section.name}: its content has another digest than the table of contents says")


def read_chunk_info(blob: BlobSource, info: BlobInfo) -> ChunkInfo:
    """The chunk information of the blob that ``info`` describes; for a zran blob, ``blob`` is its RAFS part.

    Everything is checked against ``info``, and against the table of contents if there is one. Raises `FormatError`.
    """
    return parse_chunk_info(info, *_read_array(blob, info))


def blob_meta_file(blob: BlobSource, info: BlobInfo) -> bytes:
    """What hosts cache as ``<blob id>.blob.meta``: the plain array, padded to 4096, and its header. `FormatError`."""
    array, header = _read_array(blob, info)
    parse_chunk_info(info, array, header)
    return array + bytes(align(len(array), BLOCK) - len(array)) + header


def parse_blob_meta_file(content: bytes, info: BlobInfo) -> ChunkInfo:
    """The chunk information in a ``.blob.meta`` file. Raises `FormatError`."""
    check_chunk_information(info)
    end = align(info.ci_raw_size, BLOCK)
    if len(content) != end + CI_HEADER_SIZE or content[info.ci_raw_size : end].strip(b"\0"):
        raise FormatError(f"blob {info.id}: a blob.meta file of {len(content)} bytes")
    return parse_chunk_info(info, content[: info.ci_raw_size], content[end:])


def _read_array(blob: BlobSource, info: BlobInfo) -> tuple[bytes, bytes]:
    """The plain array and header, compared with the table of contents."""
    if not info.ci_raw_size:
        raise FormatError(f"blob {info.id} has no chunk information")
    check_chunk_information(info)
    size = info.ci_size + CI_HEADER_SIZE
    if BlobFeature.HAS_TAR_HEADER in info.features:
        stored = _with_header(blob, SECTION_CI, info.ci_offset, size)
    else:
        stored = read_range(blob, SECTION_CI, info.ci_offset, size)
    array, header = stored[: info.ci_size], stored[info.ci_size :]
    if info.cipher is not Cipher.NONE:
        array, header = (decrypt(part, info.key, info.iv) for part in (array, header))
    array = decompress(info.ci_compressor, array, info.ci_raw_size)
    if BlobFeature.HAS_TOC in info.features:
        sections = read_sections(blob)
        _compare(sections, SECTION_CI, info.ci_offset, info.ci_size, array)
        _compare(sections, SECTION_CI_HEADER, info.ci_offset + info.ci_size, CI_HEADER_SIZE, header)
    return array, header


def _compare(sections: dict[str, Section], name: str, offset: int, size: int, plain: bytes) -> None:
    """What the blob table led to must be what the table of contents has."""
    section = sections.get(name)
    if section is None or (section.offset, section.size, section.raw_size) != (offset, size, len(plain)):
        raise FormatError(f"section {name}: the table of contents does not have it at {offset} with {size} bytes")
    _verify(section, plain)


def read_chunk_digests(blob: BlobSource, info: BlobInfo) -> bytes:
    """The digests of all chunks of a blob, 32 bytes each, in the order of their numbers. Raises `FormatError`."""
    section = read_sections(blob).get(SECTION_DIGESTS)
    if section is None or section.raw_size != info.chunk_count * DIGEST_SIZE:
        raise FormatError(f"blob {info.id}: no digests of its {info.chunk_count} chunks")
    return _plain(section, _with_header(blob, SECTION_DIGESTS, section.offset, section.size))
