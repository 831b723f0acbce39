"""Builds and merges layers in a process of its own and says what came of it: a JSON line a layer.

Run as ``python -m tests.hostile_layers VERSION FILE…`` by test_build_hostile.py, so that a layer that makes the builder
crash or grow is seen as such. Lines have ``file``, ``error`` (class and text, or null), ``refused`` (a `FormatError`),
``peak`` (resident bytes, null where the kernel cannot tell) and, for what was built, ``paths`` (at most 50 of the
merged tree) and ``entries``.
"""

import io
import json
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from nydusify.build.layer import build_layer
from nydusify.build.merge import merge_layers
from nydusify.build.options import BuildOptions
from nydusify.errors import FormatError
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.tree import iter_tree
from nydusify.rafs.writer import write_bootstrap
from tests.memory import reset_peak, status
from tests.trees import quote

SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".tar": "none"}
ADDRESS_SPACE = 2 << 30
"""Far above what is asserted: it turns a runaway allocation into a `MemoryError` before the machine suffers."""


class Discarded(io.RawIOBase):
    """A file that keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def outcome(path: Path, options: BuildOptions, pool: ThreadPoolExecutor) -> dict[str, Any]:
    with path.open("rb") as file:
        pieces = iter(lambda: file.read(1 << 16), b"")
        built = build_layer(pieces, SUFFIXES[path.suffix], cast(BinaryIO, Discarded()), options, pool)
    facts, data = built.facts, built.bootstrap_bytes
    del built
    merged = merge_layers([read_bootstrap(data, blob_id=facts.blob.hex)], [b"/"])
    paths = [quote(path) for path, _ in islice(iter_tree(merged.root), 50)]
    data = write_bootstrap(merged)
    del merged
    read_bootstrap(data)
    return {"paths": paths, "entries": facts.entries}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    options = BuildOptions(int(sys.argv[1]))
    with ThreadPoolExecutor(2) as pool:
        for name in sys.argv[2:]:
            measurable = reset_peak()
            line: dict[str, Any] = {"file": name, "error": None, "refused": False}
            try:
                line |= outcome(Path(name), options, pool)
            except BaseException as error:  # whatever it is, the test wants to hear of it
                line |= {"error": f"{type(error).__name__}: {error}", "refused": isinstance(error, FormatError)}
            line["peak"] = status("VmHWM") if measurable else None
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
