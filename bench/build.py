"""Build layers with the library, nothing else around it, and print the speed, CPU, memory and blob size of each.

A LAYER is a layer tar (plain, gzip or zstd) or an OCI layout directory, which stands for all layers of its image.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from layout import blob_path, first_image
from measure import run

from nydusify.build.layer import build_layer
from nydusify.build.options import BUILDABLE, BuildOptions

MB = 1e6
COLUMNS = ("raw MB", "entries", "wall s", "cpu s", "MB/s", "peak MB", "blob MB")
PIECE = 1 << 20
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}


def main() -> None:
    arguments = parse_arguments()
    compressor = next(one for one in BUILDABLE if one.name.lower() == arguments.compressor)
    options = BuildOptions(arguments.fs_version, compressor)
    print(f"{'layer':<16}" + "".join(f"{name:>10}" for name in COLUMNS))
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch) as name:
        for path in (path for layer in arguments.layer for path in layer_paths(layer)):
            print(measure_ours(path, options, arguments.workers, arguments.runs, Path(name)))
            if arguments.peer_builder:
                print(measure_peer(path, options, arguments.peer_builder, arguments.runs, Path(name)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layer", type=Path, nargs="+", metavar="LAYER")
    parser.add_argument("--runs", type=int, default=3, help="builds of each layer; medians are printed (default 3)")
    parser.add_argument("--workers", type=int, default=2, help="threads that compress (default 2)")
    parser.add_argument("--peer-builder", metavar="NYDUS_IMAGE", help="build with the reference builder too")
    parser.add_argument("--fs-version", type=int, choices=(5, 6), default=6)
    parser.add_argument("--compressor", choices=[one.name.lower() for one in BUILDABLE], default="zstd")
    parser.add_argument("--scratch", type=Path, help="where blobs are written")
    return parser.parse_args()


def layer_paths(layer: Path) -> Iterator[Path]:
    """The file itself, or the layers of a layout, lowest first."""
    if not layer.is_dir():
        yield layer
        return
    for descriptor in first_image(layer)[1]["layers"]:
        yield blob_path(layer, descriptor["digest"])


def measure_ours(path: Path, options: BuildOptions, workers: int, runs: int, scratch: Path) -> str:
    walls, cpus, peaks = [], [], []
    compression = compression_of(path)
    for _ in range(runs):
        reset_peak()
        wall, cpu = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(workers) as pool, (scratch / "blob").open("w+b") as blob:
            facts = build_layer(pieces(path), compression, blob, options, pool).facts
        walls.append(time.monotonic() - wall)
        cpus.append(time.process_time() - cpu)
        peaks.append(peak_bytes())
    wall = statistics.median(walls)
    cells = (facts.tar_size / MB, facts.entries, wall, statistics.median(cpus), facts.tar_size / MB / wall)
    return row(path.name[:14], *cells, max(peaks) / MB, facts.blob_size / MB)


def measure_peer(path: Path, options: BuildOptions, builder: str, runs: int, scratch: Path) -> str:
    """The same layer through ``nydus-image create``, as the reference nydusify calls it but for the input file."""
    kind = "targz-rafs" if compression_of(path) == "gzip" else "tar-rafs"
    features = ("--features", "blob-toc") if options.fs_version == 6 else ()
    blob = scratch / "blob"
    command = [builder, "create", "--log-level", "warn", "--blob", str(blob), "--whiteout-spec", "none"]
    command += ["--fs-version", str(options.fs_version), "--compressor", options.compressor.name.lower()]
    command += ["--type", kind, "--blob-inline-meta", *features, str(path)]
    costs = []
    for _ in range(runs):
        blob.unlink(missing_ok=True)
        costs.append(run(command, scratch / "run.log", timeout_s=900))
    wall, cpu = (statistics.median(getattr(cost, name) for cost in costs) for name in ("wall_s", "cpu_s"))
    peak = max(cost.tree_rss for cost in costs)  # not process_rss, which begins with the pages of this process
    return row("  peer", None, None, wall, cpu, None, peak / MB, blob.stat().st_size / MB)


def compression_of(path: Path) -> str:
    with path.open("rb") as file:
        return MAGIC.get(file.read(2), "none")


def pieces(path: Path) -> Iterator[bytes]:
    """The file in pieces, as a registry client hands them on."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def reset_peak() -> None:
    """Let the kernel forget this process's peak resident size."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Peak resident bytes since `reset_peak`; includes the interpreter and its modules."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def row(first: str, *cells: float | None) -> str:
    """Counts as they are, measures with three places, nothing for None."""
    texts = ("" if cell is None else str(cell) if isinstance(cell, int) else f"{cell:.3f}" for cell in cells)
    return f"{first:<16}" + "".join(f"{text:>10}" for text in texts)


if __name__ == "__main__":
    main()
