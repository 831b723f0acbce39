"""OCI and Docker images to Nydus images: the library call and the order of its steps.

import nydusify

result = nydusify.convert("registry.test/app:1", "registry.test/app:1-nydus")
print(result.target_digest)
"""

import os
import uuid
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from nydusify.conversion import report
from nydusify.conversion.bootstrap import merge_bootstrap
from nydusify.conversion.built import BuiltLayer
from nydusify.conversion.job import Job
from nydusify.conversion.layers import Workshop
from nydusify.conversion.location import Location
from nydusify.conversion.progress import Cancelled, Progress, Quiet, Watch
from nydusify.conversion.publish import ImageOptions, look_at_target, publish_image, publish_plain, reusable_layers
from nydusify.conversion.result import ConvertResult, ImageResult, LayerResult
from nydusify.conversion.root import entries_at_target, target_root
from nydusify.conversion.source import SourceImage, SourceLayer, fetch_images, source_layers
from nydusify.conversion.verify import verify_image
from nydusify.digest import Digest
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.repository import Repository
from nydusify.rafs.tree import Bootstrap

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
    """Bytes that the store may keep after a run; 0 for no limit."""
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
    job = Job(
        source if isinstance(source, Location) else Location(source),
        target if isinstance(target, Location) else Location(target),
        options.image,
        options.platforms,
        options.all_platforms,
        options.store,
    )
    run = _Run(job, options, progress or Quiet())
    try:
        result = run.go()
    except BaseException as error:
        if options.reports:
            report.write_failure(options.reports, run.facts, error)
        raise
    if options.reports:
        result = replace(result, report=report.write(options.reports, run.facts, result))
    if options.store_limit:
        job.store.prune(options.store_limit)
    return result


class _Run:
    """One conversion on its way."""

    def __init__(self, job: Job, options: ConvertOptions, progress: Progress) -> None:
        self.job, self.options, self.progress = job, options, progress
        self.store = job.store
        self.watch = Watch()
        self.facts = report.RunFacts(
            uuid.uuid4().hex, datetime.now(UTC), job.source, job.target, job.options, self.watch
        )
        self.bootstraps: dict[Digest, Bootstrap] = {}

    def go(self) -> ConvertResult:
        with self.watch.stage("total"), self.job.open_source() as source, self.job.open_target() as target:
            try:
                result = self._convert(source, target)
            finally:
                self.facts.count_retries(source, target)
        return replace(result, elapsed_ns=self.watch.elapsed("total"))

    def _convert(self, source: Repository, target: Repository) -> ConvertResult:
        job, options = self.job, self.job.options
        with self.watch.stage("resolve"):
            root, images = fetch_images(
                source, self.store, job.source.name.identifier, job.platforms, job.all_platforms
            )
            present = look_at_target(target, job.tag, options.build.key)
        self.facts.images = images
        same = entries_at_target(images, present, options, str(job.source.name))
        if same is not None and present.descriptor is not None:
            results = [ImageResult(image, entry, 0, 0, None, ()) for image, entry in zip(images, same, strict=True)]
            return self._result(root, present.descriptor, results, unchanged=True)
        layers = self._build_layers(source, target, source_layers(images), reusable_layers(target, present))
        manifests = _Manifests(self, source, target)
        results = [manifests.publish(image, layers) for image in images]
        tagged = manifests.tag()
        if self.options.verify:
            with self.watch.stage("verify"):
                verify_image(target, job.tag, tagged, [result.entry for result in results])
        return self._result(root, tagged, results, verified=self.options.verify)

    def _result(
        self,
        root: Descriptor,
        tagged: Descriptor,
        images: Sequence[ImageResult],
        unchanged: bool = False,
        verified: bool = False,
    ) -> ConvertResult:
        return ConvertResult(
            source=str(self.job.source),
            target=str(self.job.target),
            source_digest=root.digest,
            target_digest=tagged.digest,
            target_media_type=tagged.media_type,
            images=tuple(images),
            unchanged=unchanged,
            verified=verified,
            pull_ns=self.watch.elapsed("pull"),
            build_ns=self.watch.elapsed("build") + self.watch.elapsed("merge"),
            push_ns=self.watch.elapsed("push"),
        )

    def _build_layers(
        self,
        source: Repository,
        target: Repository,
        layers: Sequence[SourceLayer],
        at_target: dict[Digest, Descriptor],
    ) -> dict[Digest, LayerResult]:
        cores = len(os.sched_getaffinity(0))
        with (
            ThreadPoolExecutor(cores, "chunks") as pool,
            ThreadPoolExecutor(PUSH_JOBS, "push") as pushers,
            ThreadPoolExecutor(self.options.jobs or cores + 1, "layer") as builders,
        ):
            shop = Workshop(self.store, self.job.options.build, source, target, pool, self.progress, self.watch)

            def one(layer: SourceLayer) -> tuple[BuiltLayer, Future[tuple[int, int]]]:
                built = shop.find(layer, at_target)
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


class _Manifests:
    """The manifests of a run: what each needs is at the target before the tag is written."""

    def __init__(self, run: _Run, source: Repository, target: Repository) -> None:
        self._run, self._source, self._target = run, source, target
        self._images: list[SourceImage] = []
        self._entries: list[tuple[Descriptor, bytes]] = []
        self._plain: list[Descriptor] = []

    def publish(self, image: SourceImage, layers: dict[Digest, LayerResult]) -> ImageResult:
        run, job = self._run, self._run.job
        used = tuple(layers[layer.digest] for layer in image.manifest.layers)
        built = [layer.built for layer in used]
        with run.watch.stage("merge"):
            bootstrap = merge_bootstrap(run.store, built, job.options.prefetch, run.bootstraps)
            run.bootstraps = {}  # merging used them up
        with run.watch.stage("push"):
            published, content = publish_image(
                self._target, run.store, image, built, bootstrap, job.options, str(job.source.name)
            )
            if job.options.merge_platform:
                self._plain.append(publish_plain(self._source, self._target, run.store, image, job.mount_from))
        self._images.append(image)
        self._entries.append((published.entry, content))
        return ImageResult(image, published.entry, published.size, published.pushed_size, bootstrap, used)

    def tag(self) -> Descriptor:
        run = self._run
        entries = [entry for entry, _ in self._entries]
        root, index = target_root(self._images, entries, self._plain, run.job.options)
        with run.watch.stage("push"):
            if index is None:
                self._target.write_manifest(root, self._entries[0][1], run.job.tag)
            else:
                for entry, content in self._entries:
                    self._target.write_manifest(entry, content)
                self._target.write_manifest(root, index, run.job.tag)
        return root
