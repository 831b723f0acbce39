"""Super blocks, blob table and prefetch table of a v6 bootstrap."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nydusify.errors import FormatError
from nydusify.rafs import v6
from nydusify.rafs.spec import (
    BLOCK,
    CHUNK,
    MAX_BLOBS,
    BlobFeature,
    Cipher,
    Compressor,
    Digester,
    SuperFlag,
)
from nydusify.rafs.tree import BlobInfo, ChunkTable
from nydusify.rafs.validate import (
    algorithms,
    check_areas,
    check_blobs,
    check_chunk_information,
    check_chunk_size,
    has_placeholder_id,
    parse_blob_id,
    parse_features,
)


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """Everything of a v6 bootstrap but its tree. Offsets are bytes from the start of the file."""

    flags: SuperFlag
    compressor: Compressor
    digester: Digester
    chunk_size: int
    block_bits: int
    meta: int
    """Where nid 0 lies."""
    first_inode: int
    """No inode lies below; the super blocks and device slots do."""
    root_nid: int
    blobs: list[BlobInfo]
    chunks: ChunkTable
    """As stored, not checked."""
    prefetch: list[int]
    """Nids."""


def read_super_block(data: bytes, blob_id: str | None) -> SuperBlock:
    """Read and check all that has a fixed place. Raises `FormatError`."""
    if len(data) < BLOCK:
        raise FormatError(f"a v6 bootstrap of {len(data)} bytes")
    erofs = np.frombuffer(data, v6.SUPER_BLOCK, 1, v6.SUPER_BLOCK_OFFSET)[0]
    _check_erofs(erofs, len(data))
    extended = np.frombuffer(data, v6.EXTENDED_SUPER_BLOCK, 1, v6.EXTENDED_OFFSET)[0]
    flags, compressor, digester = algorithms(int(extended["flags"]))
    block_bits, chunk_size = int(erofs["block_bits"]), int(extended["chunk_size"])
    if (SuperFlag.TARFS in flags) != (block_bits == v6.TARFS_BLOCK_BITS):
        raise FormatError(f"super-block flags {flags:#x} with blocks of {1 << block_bits} bytes")
    check_chunk_size(chunk_size)
    devices = int(erofs["devices"])
    slots_end = v6.DEVICE_SLOT_OFFSET + devices * v6.DEVICE_SLOT.itemsize
    _check_tables(extended, devices, slots_end, len(data))
    blobs = _blobs(data, extended, devices, block_bits, blob_id)
    chunks = np.frombuffer(
        data, CHUNK, int(extended["chunk_table_size"]) // CHUNK.itemsize, _offset(extended, "chunk_table")
    )
    return SuperBlock(
        flags=flags,
        compressor=compressor,
        digester=digester,
        chunk_size=chunk_size,
        block_bits=block_bits,
        meta=int(erofs["meta_block"]) << block_bits,
        first_inode=slots_end,
        root_nid=int(erofs["root_nid"]),
        blobs=blobs,
        chunks=chunks,
        prefetch=_prefetch(data, extended),
    )


def _check_erofs(erofs: Any, length: int) -> None:
    for name, wanted in (
        ("checksum", 0),
        ("extslots", 0),
        ("xattr_block", 0),
        ("feature_incompat", v6.FEATURE_INCOMPAT),
        ("compression", 0),
        ("device_slot", v6.DEVICE_TABLE_SLOT),
    ):
        if int(erofs[name]) != wanted:
            raise FormatError(f"EROFS super block: {name} is {int(erofs[name]):#x}, not {wanted:#x}")
    if not int(erofs["feature_compat"]) & v6.FEATURE_COMPAT_RAFS:
        raise FormatError("an EROFS image that is not RAFS v6")
    bits = int(erofs["block_bits"])
    if bits not in (v6.BLOCK_BITS, v6.TARFS_BLOCK_BITS) or length % (1 << bits):
        raise FormatError(f"{length} bytes with blocks of 2^{bits}")
    if int(erofs["inos"]) == 0 or int(erofs["root_nid"]) == 0:
        raise FormatError("EROFS super block without inodes or root")
    if int(erofs["devices"]) > MAX_BLOBS:
        raise FormatError(f"{int(erofs['devices'])} blobs, {MAX_BLOBS} are possible")
    if int(erofs["devices"]) == 0 and int(erofs["blocks"]) not in (0, BLOCK):
        raise FormatError("EROFS super block with device blocks but without devices")


def _offset(extended: Any, table: str) -> int:
    """Where a table starts; 0 for an empty one, whose offset may be anything."""
    return int(extended[table]) if int(extended[f"{table}_size"]) else 0


def _check_tables(extended: Any, devices: int, slots_end: int, length: int) -> None:
    if int(extended["blob_table_size"]) != devices * v6.BLOB.itemsize:
        raise FormatError(f"a blob table of {int(extended['blob_table_size'])} bytes for {devices} blobs")
    if int(extended["chunk_table_size"]) % CHUNK.itemsize:
        raise FormatError(f"a chunk table of {int(extended['chunk_table_size'])} bytes")
    if int(extended["prefetch_table_size"]) % 4 or int(extended["prefetch_table"]) % 4:
        raise FormatError(f"a prefetch table of {int(extended['prefetch_table_size'])} bytes")
    if _offset(extended, "blob_table") % BLOCK or _offset(extended, "chunk_table") % BLOCK:
        raise FormatError("a blob or chunk table that does not start on a multiple of 4096")
    areas = [("super block", 0, slots_end)]
    for table in ("blob_table", "chunk_table", "prefetch_table"):
        areas.append((table.replace("_", " "), int(extended[table]), int(extended[f"{table}_size"])))
    check_areas(areas, length)


def _blobs(data: bytes, extended: Any, devices: int, block_bits: int, blob_id: str | None) -> list[BlobInfo]:
    """The blob table, compared with the device slots."""
    table = np.frombuffer(data, v6.BLOB, devices, _offset(extended, "blob_table"))
    slots = np.frombuffer(data, v6.DEVICE_SLOT, devices, v6.DEVICE_SLOT_OFFSET)
    blobs = [_blob(entry, blob_id) for entry in table]
    for number, (entry, slot, blob) in enumerate(zip(table, slots, blobs, strict=True)):
        if int(entry["index"]) != number:
            raise FormatError(f"blob entry {number} says that it is {int(entry['index'])}")
        if blob.chunk_size != int(extended["chunk_size"]):
            raise FormatError(f"blob {blob.id}: chunk size {blob.chunk_size:#x} differs from the super block's")
        if entry["id"] != slot["id"]:
            raise FormatError(f"blob {blob.id}: its device slot names another blob")
        blocks = blob.uncompressed_size >> block_bits
        if int(slot["blocks"]) == 0 or int(slot["blocks"]) != blocks:
            raise FormatError(f"blob {blob.id}: device of {int(slot['blocks'])} blocks, its plain size has {blocks}")
        check_chunk_information(blob)
    check_blobs(blobs)
    return blobs


def _blob(entry: Any, blob_id: str | None) -> BlobInfo:
    features = parse_features(int(entry["features"]))
    name = parse_blob_id(bytes(entry["id"]))
    meta_digest, meta_size = bytes(entry["meta_digest"]), int(entry["meta_size"])
    try:
        cipher = Cipher(int(entry["cipher"]))
        compressor, ci_compressor = Compressor(int(entry["compressor"])), Compressor(int(entry["ci_compressor"]))
        digester = Digester(int(entry["digester"]))
    except ValueError as error:
        raise FormatError(f"blob {name}: {error}") from error
    key = iv = b""
    if cipher is not Cipher.NONE:  # the key shares its place with the digest of a separate meta blob
        key, iv = meta_digest, meta_size.to_bytes(8, "little") + bytes(entry["iv_tail"])
        meta_digest, meta_size = bytes(32), 0
    if blob_id is not None and has_placeholder_id(features):
        name = parse_blob_id(blob_id.encode("ascii", "replace"))
    elif blob_id is not None and BlobFeature.INLINED_FS_META in features and meta_digest == bytes(32):
        meta_digest = _digest_of(blob_id)
    return BlobInfo(
        id=name,
        compressed_size=int(entry["csize"]),
        uncompressed_size=int(entry["usize"]),
        chunk_count=int(entry["chunk_count"]),
        chunk_size=int(entry["chunk_size"]),
        compressor=compressor,
        digester=digester,
        features=features,
        ci_compressor=ci_compressor,
        ci_offset=int(entry["ci_offset"]),
        ci_size=int(entry["ci_csize"]),
        ci_raw_size=int(entry["ci_usize"]),
        toc_size=int(entry["toc_size"]),
        toc_digest=bytes(entry["toc_digest"]),
        meta_digest=meta_digest,
        meta_size=meta_size,
        cipher=cipher,
        key=key,
        iv=iv,
    )


def _digest_of(blob_id: str) -> bytes:
    """The digest that a blob id is the hex of; zeros if it was named in another way."""
    try:
        digest = bytes.fromhex(blob_id)
    except ValueError:
        return bytes(32)
    return digest if len(digest) == 32 else bytes(32)


def _prefetch(data: bytes, extended: Any) -> list[int]:
    """Nids up to the first zero."""
    count = int(extended["prefetch_table_size"]) // 4
    nids = np.frombuffer(data, "<u4", count, _offset(extended, "prefetch_table"))
    stops = np.flatnonzero(nids == 0)
    found: list[int] = nids[: stops[0] if len(stops) else count].tolist()
    return found
