"""Convert images on a loopback registry, ours and the reference tool in turn, and print time, CPU, memory and sizes.

See README.md beside this file. Every measured run starts with an empty work directory and an empty target repository.
"""

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loopback import Registry, registry
from measure import CommandFailed, Cost, process_cpu, run

MB = 1e6


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the programs that are compared."""

    name: str
    command: tuple[str, ...]
    """Program and first arguments; the references and the work directory come after them."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One conversion: what it cost, what the registry saw of it, and what it left there."""

    image: str
    side: str
    cost: Cost
    registry_cpu_s: float
    other_cpu_s: float
    """CPU seconds of everything but the measured command and the registry: the noise of a shared machine."""
    requests: dict[str, int]
    blob_bytes: int
    bootstrap_bytes: int


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.scratch) as name:
        bench = Bench(Path(name), arguments)
        with registry(bench.scratch) as bench.registry:
            samples = list(bench.samples())
    if arguments.json:
        report = {"cpus": os.cpu_count(), "samples": [dataclasses.asdict(sample) for sample in samples]}
        print(json.dumps(report, indent=1))
    else:
        print_tables(samples)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, action="append", required=True, metavar="LAYOUT_DIR")
    parser.add_argument("--ours", metavar="COMMAND", help="default: the nydusify beside this Python, or in PATH")
    parser.add_argument("--peer", metavar="PROGRAM", help="the reference nydusify to compare with")
    parser.add_argument("--peer-builder", metavar="PROGRAM", default="nydus-image", help="its builder")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs for each image (default 3)")
    parser.add_argument("--repeat-same", action="store_true", help="also convert again with nothing changed")
    parser.add_argument("--fs-version", choices=("5", "6"))
    parser.add_argument("--compressor", choices=("none", "lz4_block", "zstd"))
    parser.add_argument("--scratch", type=Path, help="where to work; on a disk, as tmpfs counts no written bytes")
    parser.add_argument("--timeout", type=float, default=900, help="seconds before a run is killed (default 900)")
    parser.add_argument("--json", action="store_true", help="print every sample as JSON instead of the tables")
    arguments = parser.parse_args()
    for layout in arguments.image:
        if not (layout / "index.json").is_file():
            parser.error(f"not an OCI layout directory: {layout}")
    return arguments


class Bench:
    """The runs of one invocation, in ``scratch``."""

    registry: Registry

    def __init__(self, scratch: Path, arguments: argparse.Namespace) -> None:
        self.scratch = scratch
        self.arguments = arguments
        self.sides = list(sides(arguments))

    def samples(self) -> Iterator[Sample]:
        """Push each image, then run the sides in turn: A B A B …"""
        for layout in self.arguments.image:
            image = layout.resolve().name
            source = self.registry.push_layout(layout, f"source/{image}")
            for number in range(self.arguments.runs):
                for side in self.sides:
                    yield from self.runs(side, image, source, f"target/{image}-{side.name}-{number}")

    def runs(self, side: Side, image: str, source: str, repository: str) -> Iterator[Sample]:
        """A fresh conversion and, if asked for, the same once more with its work directory and target kept."""
        work = self.scratch / "work"
        yield self.convert(side, image, source, repository, work)
        if self.arguments.repeat_same:
            again = dataclasses.replace(side, name=f"{side.name} again")
            yield self.convert(again, image, source, repository, work)
        shutil.rmtree(work, ignore_errors=True)  # the reference tool removes it itself

    def convert(self, side: Side, image: str, source: str, repository: str, work: Path) -> Sample:
        target = f"{self.registry.address}/{repository}:latest"
        command = (*side.command, "--source", source, "--target", target, "--work-dir", str(work))
        logged = self.registry.log.stat().st_size
        registry_cpu_s = process_cpu(self.registry.pid)
        try:
            cost = run(command, self.scratch / "run.log", self.arguments.timeout)
        except CommandFailed as error:
            raise SystemExit(f"{side.name}, {image}: {error}") from None
        registry_cpu_s = process_cpu(self.registry.pid) - registry_cpu_s
        requests = dict(self.registry.requests_since(logged))
        print(f"{image}: {side.name} {cost.wall_s:.2f} s", file=sys.stderr)
        other_cpu_s = max(0.0, cost.machine_cpu_s - cost.cpu_s - registry_cpu_s)
        sizes = self.registry.target_sizes(repository)
        return Sample(image, side.name, cost, registry_cpu_s, other_cpu_s, requests, *sizes)


def sides(arguments: argparse.Namespace) -> Iterator[Side]:
    """Ours, then the peer if there is one, with the options that both understand."""
    options: list[str] = []
    for name in ("fs_version", "compressor"):
        if value := getattr(arguments, name):
            options += [f"--{name.replace('_', '-')}", value]
    ours = shlex.split(arguments.ours) if arguments.ours else [installed_command()]
    yield Side("ours", (*ours, "convert", *options))
    if arguments.peer:
        builder = shutil.which(arguments.peer_builder)
        if builder is None:
            raise SystemExit(f"no such builder: {arguments.peer_builder}")  # the reference tool would hang without
        yield Side("peer", (arguments.peer, "convert", "--plain-http", "--nydus-image", builder, *options))


def installed_command() -> str:
    """The entry point that pip installed: beside this Python, or in PATH."""
    beside = Path(sys.executable).with_name("nydusify")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nydusify")
    if found is None:
        raise SystemExit("nydusify is not installed for this Python; install the project or give --ours")
    return found


COLUMNS: dict[str, Callable[[Sample], float]] = {
    "wall s": lambda sample: sample.cost.wall_s,
    "cpu s": lambda sample: sample.cost.cpu_s,
    "process MB": lambda sample: sample.cost.process_rss / MB,
    "tree MB": lambda sample: sample.cost.tree_rss / MB,
    "written MB": lambda sample: sample.cost.written / MB,
    "blobs MB": lambda sample: sample.blob_bytes / MB,
    "bootstrap MB": lambda sample: sample.bootstrap_bytes / MB,
}
NOISE: dict[str, Callable[[Sample], float]] = {"other cpu s": lambda sample: sample.other_cpu_s}


def print_tables(samples: Sequence[Sample]) -> None:
    """Medians for each image and side, the ratios of the pairs, and the requests each kind of run made."""
    grouped: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        grouped.setdefault((sample.image, sample.side), []).append(sample)
    print(row("image, side", "runs", *COLUMNS, *NOISE))
    for (image, side), runs in grouped.items():
        print(row(f"{image}, {side}", str(len(runs)), *medians(runs)))
    for (image, side), runs in grouped.items():
        if peers := grouped.get((image, side.replace("ours", "peer"))) if side.startswith("ours") else None:
            print_ratios(f"{image}, {side}", runs, peers)
    for (image, side), runs in grouped.items():
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(runs[-1].requests.items()))
        print(f"requests of {image}, {side}: {counts or 'none'}")


def medians(runs: Sequence[Sample]) -> list[str]:
    return [f"{statistics.median(map(column, runs)):.2f}" for column in (COLUMNS | NOISE).values()]


def print_ratios(label: str, ours: Sequence[Sample], peers: Sequence[Sample]) -> None:
    """ours / peer of each pair of runs: the lowest, the median and the highest for each column."""
    table: list[list[str]] = []
    for column in COLUMNS.values():
        pairs = [(column(a), column(b)) for a, b in zip(ours, peers, strict=True)]
        ratios = [a / b for a, b in pairs if b]
        table.append([f"{pick(ratios):.2f}" if ratios else "-" for pick in (min, statistics.median, max)])
    for line, name in zip(zip(*table, strict=True), ("min", "median", "max"), strict=True):
        print(row(f"{label} / peer, {name}", str(len(ours)), *line))


def row(first: str, *cells: str) -> str:
    return f"{first:<34}" + "".join(f"{cell:>13}" for cell in cells)


if __name__ == "__main__":
    main()
