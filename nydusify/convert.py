"""OCI and Docker images to Nydus images: the library call and the order of its steps.

import nydusify

result = nydusify.convert("registry.test/app:1", "registry.test/app:1-nydus")
print(result.target_digest)
"""

import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

from nydusify.conversion import report
from nydusify.conversion.bootstrap import MergedBootstrap, merge_bootstrap
from nydusify.conversion.built import BuiltLayer
from nydusify.conversion.job import Job
from nydusify.conversion.layers import Workshop, pull_layer
from nydusify.conversion.location import Location
from nydusify.conversion.progress import Cancelled, Progress, Quiet, Watch
from nydusify.conversion.publish import (
    ImageOptions,
    PublishedImage,
    look_at_target,
    publish_image,
    publish_plain,
    reusable_layers,
)
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
BuiltLayers = dict[Digest, tuple[SourceLayer, BuiltLayer]]
"""By the digest of the source layer."""


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
            results = [
                ImageResult(image, entry, present.sizes[entry.digest], 0, None, ())
                for image, entry in zip(images, same, strict=True)
            ]
            return self._result(root, present.descriptor, results, unchanged=True)

        def fail() -> None:
            self.watch.stop.set()
            for repository in (source, target):
                repository.close()  # threads that wait for the network return at once

        with _Workers(self.options.jobs, fail) as workers:
            shop = Workshop(self.store, options.build, source, target, workers.chunks, self.progress, self.watch)
            layers = self._build_layers(shop, workers, source_layers(images), reusable_layers(target, present))
            manifests = _Manifests(self, source, target)
            for image in images:
                manifests.prepare(image, layers)  # blobs are still being pushed meanwhile
            sent = workers.sent()
        self.facts.layers = {
            digest: LayerResult(layer, built, *sent[digest]) for digest, (layer, built) in layers.items()
        }
        results = manifests.results(self.facts.layers)
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
        self, shop: Workshop, workers: "_Workers", layers: Sequence[SourceLayer], at_target: dict[Digest, Descriptor]
    ) -> BuiltLayers:
        """Find or build all layers; each blob's push starts as soon as it is built, and may still be under way."""

        keep = self.job.options.merge_platform

        def one(layer: SourceLayer) -> BuiltLayer:
            built = shop.find(layer, at_target)
            if built is None:
                # A merged index takes the layer itself along: keep it while it passes.
                pulled = pull_layer(shop.source, self.store, layer.descriptor) if keep else 0
                built, bootstrap = shop.build(layer)
                built = replace(built, pulled_size=pulled) if pulled else built
                self.bootstraps[built.facts.blob] = bootstrap
            workers.pushing[layer.descriptor.digest] = workers.pushers.submit(push, built)
            return built

        def push(built: BuiltLayer) -> tuple[int, int]:
            try:
                return shop.push(built)
            except BaseException:
                self.watch.stop.set()  # nothing that is still being built can be of use
                raise

        # The largest first: else the run may end with one thread at work on the last layer.
        order = sorted(layers, key=lambda layer: -layer.descriptor.size)
        building = {layer.descriptor.digest: workers.builders.submit(one, layer) for layer in order}
        try:
            built = _results(building)
        except Cancelled:
            workers.sent()  # raises what went wrong
            raise
        return {layer.descriptor.digest: (layer, built[layer.descriptor.digest]) for layer in layers}


class _Workers:
    """The threads of a run. Leaving the block by an error stops them as soon as they notice."""

    def __init__(self, jobs: int, on_failure: Callable[[], None]) -> None:
        cores = len(os.sched_getaffinity(0))
        self.chunks = ThreadPoolExecutor(cores, "chunks")
        self.pushers = ThreadPoolExecutor(PUSH_JOBS, "push")
        self.builders = ThreadPoolExecutor(jobs or cores + 1, "layer")
        self.pushing: dict[Digest, Future[tuple[int, int]]] = {}
        self.on_failure = on_failure

    def sent(self) -> dict[Digest, tuple[int, int]]:
        """Wait until every blob is at the target; bytes sent and nanoseconds, by source layer."""
        return _results(self.pushing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            self.on_failure()
        for executor in (self.builders, self.pushers, self.chunks):
            executor.shutdown(cancel_futures=kind is not None)


def _results(futures: dict[Digest, Future[T]]) -> dict[Digest, T]:
    """Wait for all; raise the first error that is a cause and not a consequence."""
    wait(futures.values(), return_when=FIRST_EXCEPTION)
    errors = [error for future in futures.values() if future.done() and (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
        raise error
    return {digest: future.result() for digest, future in futures.items()}


class _Manifests:
    """The manifests of a run: what each needs is at the target before the tag is written."""

    def __init__(self, run: _Run, source: Repository, target: Repository) -> None:
        self._run, self._source, self._target = run, source, target
        self._prepared: list[tuple[SourceImage, PublishedImage, bytes, MergedBootstrap]] = []
        self._plain: list[Descriptor] = []

    def prepare(self, image: SourceImage, layers: BuiltLayers) -> None:
        """Merge, and push what belongs to the image but blobs and manifest."""
        run, job = self._run, self._run.job
        built = [layers[layer.digest][1] for layer in image.manifest.layers]
        with run.watch.stage("merge"):
            bootstrap = merge_bootstrap(run.store, built, job.options.prefetch, run.bootstraps)
            run.bootstraps = {}  # merging used them up
        with run.watch.stage("push"):
            published, content = publish_image(
                self._target, run.store, image, built, bootstrap, job.options, str(job.source.name)
            )
            if job.options.merge_platform:
                entry, sent = publish_plain(self._source, self._target, run.store, image, job.mount_from)
                self._plain.append(entry)
                published = replace(published, pushed_size=published.pushed_size + sent)
        self._prepared.append((image, published, content, bootstrap))

    def results(self, layers: dict[Digest, LayerResult]) -> list[ImageResult]:
        return [
            ImageResult(
                image,
                published.entry,
                published.size,
                published.pushed_size,
                bootstrap,
                tuple(layers[layer.digest] for layer in image.manifest.layers),
            )
            for image, published, _, bootstrap in self._prepared
        ]

    def tag(self) -> Descriptor:
        """Push the manifests, whose blobs are all there by now, and the tag last; return what it names."""
        run = self._run
        images = [image for image, *_ in self._prepared]
        manifests = [(published.entry, content) for _, published, content, _ in self._prepared]
        root, index = target_root(images, [entry for entry, _ in manifests], self._plain, run.job.options)
        with run.watch.stage("push"):
            if index is None:
                self._target.write_manifest(root, manifests[0][1], run.job.tag)
            else:
                for entry, content in manifests:
                    self._target.write_manifest(entry, content)
                self._target.write_manifest(root, index, run.job.tag)
        return root
