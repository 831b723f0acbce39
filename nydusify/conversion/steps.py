"""The steps of a `Job`, each by itself: it opens what it needs, does one thing, and returns a small value.

`nydusify.convert` overlaps the same work in one process instead. Every step is safe to repeat.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from nydusify.conversion.bootstrap import MergedBootstrap, merge_bootstrap
from nydusify.conversion.built import BuiltLayer
from nydusify.conversion.job import Effort, Job
from nydusify.conversion.layers import Workshop, pull_layer, send_blob
from nydusify.conversion.progress import Quiet, Watch
from nydusify.conversion.publish import PublishedImage, look_at_target, publish_image, publish_plain, reusable_layers
from nydusify.conversion.root import entries_at_target, target_root
from nydusify.conversion.source import SourceImage, SourceLayer, fetch_images, source_layers
from nydusify.conversion.verify import verify_image
from nydusify.digest import Digest
from nydusify.oci.archive_writer import ArchiveWriter
from nydusify.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Fetched:
    """The source, and what an earlier run left of it."""

    root: Descriptor
    """What the source reference names: a manifest or an index."""
    images: tuple[SourceImage, ...]
    layers: tuple[SourceLayer, ...]
    """Of all images, each once."""
    tagged: Descriptor | None
    """What is under the target's tag."""
    unchanged: tuple[Descriptor, ...] | None
    """The target's manifests, if there is nothing to do."""
    sizes: dict[Digest, int]
    """Bytes of config and layers of those."""
    at_target: dict[Digest, Descriptor]
    """Blobs by source layer that the target has already, built with the same options."""
    held: frozenset[Digest]
    """Source layers whose bootstrap is in the store, and whose blob is there or at the target."""
    effort: Effort


@dataclass(frozen=True, slots=True)
class Pulled:
    """A source layer that is in the store now, or that was ``found`` built at the target instead."""

    size: int
    """Bytes that were transferred."""
    found: BuiltLayer | None
    effort: Effort


@dataclass(frozen=True, slots=True)
class Built:
    layer: BuiltLayer
    effort: Effort


@dataclass(frozen=True, slots=True)
class Pushed:
    size: int
    """Bytes that were transferred."""
    effort: Effort


@dataclass(frozen=True, slots=True)
class Merged:
    bootstrap: MergedBootstrap
    effort: Effort


@dataclass(frozen=True, slots=True)
class Published:
    """What is at the target now, under its tag."""

    root: Descriptor
    images: tuple[PublishedImage, ...]
    sent: dict[Digest, int]
    """Blob bytes by source layer that had to be transferred although each was pushed before: into an archive, all."""
    effort: Effort


def fetch(job: Job) -> Fetched:
    """Resolve source and target. Raises `PlatformError`, `FormatError`, `TransportError`."""
    started = time.time_ns()
    with _workshop(job) as shop:
        identifier = job.source.name.identifier
        root, images = fetch_images(shop.source, shop.store, identifier, job.platforms, job.all_platforms)
        present = look_at_target(shop.target, job.tag, job.options.build.key)
        unchanged = entries_at_target(images, present, job.options, str(job.source.name))
        layers = source_layers(images)
        held = () if unchanged else (layer.descriptor.digest for layer in layers if shop.find(layer, {}) is not None)
        return Fetched(
            root=root,
            images=tuple(images),
            layers=tuple(layers),
            tagged=present.descriptor,
            unchanged=tuple(unchanged) if unchanged is not None else None,
            sizes=present.sizes,
            at_target=reusable_layers(shop.target, present),
            held=frozenset(held),
            effort=Effort.since("resolve", started, shop.source, shop.target),
        )


def pull(job: Job, layer: SourceLayer, at_target: Mapping[Digest, Descriptor]) -> Pulled:
    """Bring a layer into the store, unless its blob is at the target."""
    started = time.time_ns()
    with _workshop(job) as shop:
        found = shop.find(layer, at_target)
        size = 0 if found is not None else pull_layer(shop.source, shop.store, layer.descriptor)
        return Pulled(size, found, Effort.since("pull", started, shop.source, shop.target))


def build(job: Job, layer: SourceLayer, pulled: Pulled | None) -> Built:
    """Build a layer from the store, or from its source if it is gone. ``pulled`` is None for layers that are held."""
    started = time.time_ns()
    with _workshop(job) as shop:
        built = (pulled.found if pulled is not None else None) or shop.find(layer, {}) or shop.build(layer)[0]
        if pulled is not None and pulled.size:
            built = replace(built, pulled_size=pulled.size, pull_ns=pulled.effort.elapsed_ns)
        return Built(built, Effort.since("build", started, shop.source, shop.target))


def push(job: Job, built: BuiltLayer) -> Pushed:
    """Push a blob unless the target has it. An archive is written as a whole by `publish`."""
    started = time.time_ns()
    with job.open_target() as target:
        size = 0 if isinstance(target, ArchiveWriter) else send_blob(target, job.store, built)
        return Pushed(size, Effort.since("push", started, target))


def merge(job: Job, image: SourceImage, built: Mapping[Digest, BuiltLayer]) -> Merged:
    """Merge the bootstraps of one image's layers; ``built`` is by source layer."""
    started = time.time_ns()
    layers = [built[layer.digest] for layer in image.manifest.layers]
    merged = merge_bootstrap(job.store, layers, job.options.prefetch, {})
    return Merged(merged, Effort.since("merge", started))


def publish(
    job: Job, images: Sequence[SourceImage], built: Mapping[Digest, BuiltLayer], merged: Sequence[Merged]
) -> Published:
    """Bring whatever is missing to the target, then the manifests, and the tag last of all."""
    started = time.time_ns()
    store, options = job.store, job.options
    with job.open_source() as source, job.open_target() as target:
        sent = {digest: send_blob(target, store, layer) for digest, layer in built.items()}
        published, manifests, plain = [], [], []
        for image, one in zip(images, merged, strict=True):
            layers = [built[layer.digest] for layer in image.manifest.layers]
            made, content = publish_image(target, store, image, layers, one.bootstrap, options, str(job.source.name))
            published.append(made)
            manifests.append(content)
            if options.merge_platform:
                entry, size = publish_plain(source, target, store, image, job.mount_from)
                plain.append(entry)
                published[-1] = replace(made, pushed_size=made.pushed_size + size)
        root, index = target_root(images, [made.entry for made in published], plain, options)
        if index is not None:
            for made, content in zip(published, manifests, strict=True):
                target.write_manifest(made.entry, content)
        target.write_manifest(root, manifests[0] if index is None else index, job.tag)
        return Published(root, tuple(published), sent, Effort.since("push", started, source, target))


def verify(job: Job, published: Published) -> Effort:
    """Read the target back. Raises `FormatError` or `NotFound` if it is not what was published."""
    started = time.time_ns()
    with job.open_result() as target:
        verify_image(target, job.tag, published.root, [image.entry for image in published.images])
        return Effort.since("verify", started, target)


@contextmanager
def _workshop(job: Job) -> Iterator[Workshop]:
    with (
        job.open_source() as source,
        job.open_target() as target,
        ThreadPoolExecutor(len(os.sched_getaffinity(0)), "chunks") as pool,
    ):
        yield Workshop(job.store, job.options.build, source, target, pool, Quiet(), Watch())
