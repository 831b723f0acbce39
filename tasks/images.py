"""An image: its manifests and bootstrap."""

from prefect import task

from nydusify.conversion import steps
from nydusify.conversion.job import Effort, Job
from nydusify.conversion.result import LayerResult
from nydusify.conversion.source import SourceImage
from nydusify.digest import Digest
from tasks.policy import FRESH, RETRIES


@task(name="fetch manifest", task_run_name="fetch {job.source}", **RETRIES, **FRESH)
def fetch_manifest(job: Job) -> steps.Fetched:
    """Manifests and configs of the source, and what an earlier run left in the store and at the target."""
    return steps.fetch(job)


@task(name="merge bootstrap", task_run_name="merge {image.entry.digest}", **RETRIES, **FRESH)
def merge_bootstrap(job: Job, image: SourceImage, layers: dict[Digest, LayerResult]) -> steps.Merged:
    """Merge the bootstraps of an image's layers and put the bootstrap layer into the store."""
    return steps.merge(job, image, {digest: layer.built for digest, layer in layers.items()})


@task(name="push manifest", task_run_name="push {job.target}", **RETRIES, **FRESH)
def push_manifest(
    job: Job, fetched: steps.Fetched, layers: dict[Digest, LayerResult], merged: list[steps.Merged]
) -> steps.Published:
    """Push bootstraps, configs and manifests, and write the tag when all that it reaches is there."""
    return steps.publish(job, fetched.images, {digest: layer.built for digest, layer in layers.items()}, merged)


@task(name="verify", task_run_name="verify {job.target}", **RETRIES, **FRESH)
def verify(job: Job, published: steps.Published) -> Effort:
    """Read the pushed image back."""
    return steps.verify(job, published)
