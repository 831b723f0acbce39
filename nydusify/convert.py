"""OCI and Docker images to Nydus images: the library call and the order of its steps.

    import nydusify

    result = nydusify.convert("registry.test/app:1", "registry.test/app:1-nydus")
    print(result.target_digest)
"""

import os
import uuid
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from nydusify.conversion import report
from nydusify.conversion.bootstrap import MergedBootstrap, merge_bootstrap
from nydusify.conversion.built import BuiltLayer
from nydusify.conversion.layers import Workshop
from nydusify.conversion.location import Location, open_source, open_target
from nydusify.conversion.progress import Cancelled, Progress, Quiet, Watch
from nydusify.conversion.publish import (
    ImageOptions,
    Present,
    look_at_target,
    publish_image,
    publish_plain,
    target_index,
)
from nydusify.conversion.result import ConvertResult, ImageResult, LayerResult
from nydusify.conversion.source import SourceImage, SourceLayer, fetch_images, source_layers
from nydusify.conversion.verify import verify_image
from nydusify.digest import Digest
from nydusify.errors import UsageError
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.nydus import isolate, isolated_entry
from nydusify.oci.repository import Repository
from nydusify.rafs.tree import Bootstrap
from nydusify.store import Store

PUSH_JOBS = 4
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert. What is in `image` determines the bytes; the rest does not."""

    image: ImageOptions = field(default_factory=ImageOptions)
    platforms: tuple[Platform, ...] = ()
    """Which of a source index; none means the host's."""
    all_platforms: bool = False
    jobs: int = 0
    """Layers that are built at the same time; 0 means one more than there are cores."""
    verify: bool = True
    """Read the pushed image back."""
    store: Path | None = None
    """Where layers, blobs and bootstraps are kept between runs; the user's cache directory by default."""
    store_limit: int = 20 << 30
    """Bytes that the store may keep after a run."""
    reports: str = ""
    """Directory or fsspec URL of the Parquet reports; none are written if empty."""


def convert(
    source: str | Location,
    target: str | Location,
    options: ConvertOptions | None = None,
    progress: Progress | None = None,
) -> ConvertResult:
    """Convert the image ``source`` and push it as ``target``; the tag is written last.

    Raises subclasses of `NydusifyError`; nothing is under the target's tag then that was not there before. With
    ``options.reports`` a failed run leaves its rows too.
    """
    options = options or ConvertOptions()
    source = source if isinstance(source, Location) else Location(source)
    target = target if isinstance(target, Location) else Location(target)
    if target.name.digest is not None:
        raise UsageError(f"target {target.name} names a digest", advice="Give the target a tag.")
    if source.name == target.name and source.archive == target.archive:
        raise UsageError(f"source and target are both {source}", advice="Give the target another tag.")
    run = _Run(source, target, options, progress or Quiet())
    try:
        result = run.go()
    except BaseException as error:
        if options.reports:
            report.write_failure(options.reports, run.facts, error)
        raise
    if options.reports:
        result = replace(result, report=report.write(options.reports, run.facts, result))
    if options.store_limit:
        run.store.prune(options.store_limit)
    return result


class _Run:
    """One conversion on its way."""

    def __init__(self, source: Location, target: Location, options: ConvertOptions, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.source_location, self.target_location = source, target
        self.store = Store(options.store)
        self.watch = Watch()
        self.tag = target.name.tag or "latest"
        self.image_key = options.image.key(str(source.name))
        self.facts = report.RunFacts(uuid.uuid4().hex, datetime.now(UTC), source, target, options.image, self.watch)
        self.bootstraps: dict[Digest, Bootstrap] = {}

    def go(self) -> ConvertResult:
        with self.watch.stage("total"), closing(open_target(self.target_location)) as target:
            with closing(open_source(self.source_location, self.store.root / "tmp")) as source:
                result = self._convert(source, target)
            self.facts.count_retries(source, target)
        return replace(result, elapsed_ns=self.watch.elapsed("total"))

    def _convert(self, source: Repository, target: Repository) -> ConvertResult:
        options = self.options
        with self.watch.stage("resolve"):
            identifier = self.source_location.name.identifier
            root, images = fetch_images(source, self.store, identifier, options.platforms, options.all_platforms)
            present = look_at_target(target, self.tag, options.image.build.key)
        self.facts.images = images
        same = self._unchanged(images, present)
        if same is not None:
            return same
        layers = self._build_layers(source, target, source_layers(images), present)
        entries = _Entries(self, source, target)
        results = [entries.publish(image, layers) for image in images]
        tagged = entries.tag()
        if options.verify:
            with self.watch.stage("verify"):
                verify_image(target, self.tag, tagged, [result.entry for result in results])
        return ConvertResult(
            source=str(self.source_location),
            target=str(self.target_location),
            source_digest=root.digest,
            target_digest=tagged.digest,
            target_media_type=tagged.media_type,
            images=tuple(results),
            unchanged=False,
            verified=options.verify,
            pull_ns=self.watch.elapsed("pull"),
            build_ns=self.watch.elapsed("build") + self.watch.elapsed("merge"),
            push_ns=self.watch.elapsed("push"),
        )

    def _unchanged(self, images: Sequence[SourceImage], present: Present) -> ConvertResult | None:
        """The result of an earlier run, if the tag still is what this one would make; by manifests alone."""
        entries = [present.images.get((image.entry.digest, self.image_key)) for image in images]
        if present.descriptor is None or None in entries:
            return None
        marked = [
            replace(entry, platform=image.platform, annotations=image.entry.annotations)
            for entry, image in zip(entries, images, strict=True)
            if entry is not None
        ]
        expected = self.root_of(images, marked, [_isolated(image) for image in images])
        if expected[0].digest != present.descriptor.digest:
            return None
        return ConvertResult(
            source=str(self.source_location),
            target=str(self.target_location),
            source_digest=images[0].entry.digest,
            target_digest=present.descriptor.digest,
            target_media_type=present.descriptor.media_type,
            images=tuple(
                ImageResult(image, entry, 0, 0, None, ()) for image, entry in zip(images, marked, strict=True)
            ),
            unchanged=True,
            verified=False,
        )

    def root_of(
        self, images: Sequence[SourceImage], entries: Sequence[Descriptor], plain: Sequence[Descriptor]
    ) -> tuple[Descriptor, bytes | None]:
        """What goes under the tag: the one manifest (whose bytes the caller has), or an index over all."""
        if len(entries) == 1 and not self.options.image.merge_platform:
            return replace(entries[0], platform=None, annotations={}), None
        docker = media.is_docker(images[0].manifest.media_type) and not self.options.image.oci
        index = target_index(entries, plain if self.options.image.merge_platform else (), docker)
        return index.descriptor(), index.to_bytes()

    def _build_layers(
        self, source: Repository, target: Repository, layers: Sequence[SourceLayer], present: Present
    ) -> dict[Digest, LayerResult]:
        cores = len(os.sched_getaffinity(0))
        with (
            ThreadPoolExecutor(cores, "chunks") as pool,
            ThreadPoolExecutor(PUSH_JOBS, "push") as pushers,
            ThreadPoolExecutor(self.options.jobs or cores + 1, "layer") as builders,
        ):
            shop = Workshop(self.store, self.options.image.build, source, target, pool, self.progress, self.watch)

            def one(layer: SourceLayer) -> tuple[BuiltLayer, Future[tuple[int, int]]]:
                built = shop.find(layer, present.layers)
                if built is None:
                    built, self.bootstraps[built.facts.blob] = shop.build(layer)
                return built, pushers.submit(shop.push, built)

            # The largest first: else the run may end with one thread at work on the last layer.
            order = sorted(layers, key=lambda layer: -layer.descriptor.size)
            building = {layer.descriptor.digest: builders.submit(one, layer) for layer in order}
            try:
                pushing = {digest: future.result()[1] for digest, future in _all(building).items()}
                sent = {digest: future.result() for digest, future in _all(pushing).items()}
            except BaseException:
                self.watch.stop.set()
                for executor in (builders, pushers):
                    executor.shutdown(wait=False, cancel_futures=True)
                raise
        for layer in layers:
            digest = layer.descriptor.digest
            self.facts.layers[digest] = LayerResult(layer, building[digest].result()[0], *sent[digest])
        return self.facts.layers


def _all(futures: dict[Digest, Future[T]]) -> dict[Digest, Future[T]]:
    """Wait for all; raise the first error that is a cause and not a consequence."""
    done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
    errors = [error for future in done if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
        raise error
    return futures


def _isolated(image: SourceImage) -> Descriptor:
    manifest, _ = isolate(image.manifest, image.config, image.entry.digest)
    return isolated_entry(replace(image.entry, platform=image.platform), manifest)


class _Entries:
    """The manifests of a run: each is complete at the target before the tag is written."""

    def __init__(self, run: _Run, source: Repository, target: Repository) -> None:
        self._run, self._source, self._target = run, source, target
        self._images: list[SourceImage] = []
        self._manifests: list[tuple[Descriptor, bytes]] = []
        self._plain: list[Descriptor] = []

    def publish(self, image: SourceImage, layers: dict[Digest, LayerResult]) -> ImageResult:
        run, options = self._run, self._run.options.image
        used = tuple(layers[layer.digest] for layer in image.manifest.layers)
        built = [layer.built for layer in used]
        with run.watch.stage("merge"):
            bootstrap: MergedBootstrap = merge_bootstrap(run.store, built, options.prefetch, run.bootstraps)
            run.bootstraps = {}  # merging used them up
        with run.watch.stage("push"):
            published, content = publish_image(
                self._target, run.store, image, built, bootstrap, options, str(run.source_location.name)
            )
            if options.merge_platform:
                self._plain.append(publish_plain(self._source, self._target, run.store, image, self._mount_from()))
        self._images.append(image)
        self._manifests.append((published.entry, content))
        return ImageResult(image, published.entry, published.size, published.pushed_size, bootstrap, used)

    def _mount_from(self) -> str | None:
        source, target = self._run.source_location, self._run.target_location
        same = source.name.registry == target.name.registry and not source.archive and not target.archive
        return source.name.repository if same else None

    def tag(self) -> Descriptor:
        run = self._run
        root, index = run.root_of(self._images, [entry for entry, _ in self._manifests], self._plain)
        with run.watch.stage("push"):
            if index is None:
                self._target.write_manifest(root, self._manifests[0][1], run.tag)
            else:
                for entry, content in self._manifests:
                    self._target.write_manifest(entry, content)
                self._target.write_manifest(root, index, run.tag)
        return root
