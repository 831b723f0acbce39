"""What determines the bytes of a converted layer, besides the layer."""

import hashlib
import json
from dataclasses import asdict, dataclass

from nydusify.build import BUILDER_VERSION
from nydusify.errors import UsageError
from nydusify.rafs.spec import DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, Compressor, Digester

BUILDABLE = (Compressor.NONE, Compressor.LZ4_BLOCK, Compressor.ZSTD)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Raises `UsageError` for values that RAFS does not know."""

    fs_version: int = 6
    compressor: Compressor = Compressor.ZSTD
    digester: Digester = Digester.BLAKE3
    chunk_size: int = DEFAULT_CHUNK_SIZE
    """Bytes; a power of two from 4 KiB to 16 MiB."""
    aligned: bool = False
    """Let every chunk of a v5 blob begin on 4 KiB of the plain data, as v6 always does."""

    def __post_init__(self) -> None:
        if self.fs_version not in (5, 6):
            raise UsageError(f"fs-version is 5 or 6, not {self.fs_version}")
        if self.compressor not in BUILDABLE:
            raise UsageError(f"compressor {self.compressor.name.lower()} can be read but not written")
        size = self.chunk_size
        if size & (size - 1) or not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
            raise UsageError(
                f"chunk size {size:#x} is not a power of two from {MIN_CHUNK_SIZE:#x} to {MAX_CHUNK_SIZE:#x}"
            )

    @property
    def key(self) -> str:
        """16 hex digits that differ when the built bytes may differ."""
        values = asdict(self) | {"builder": BUILDER_VERSION}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
