"""source image → layers → blobs → bootstrap → target image → report row"""

import os
from typing import Any
from uuid import uuid4

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import ConvertParameters
from nydusify.conversion.job import Job
from nydusify.conversion.record import Record, summary
from nydusify.conversion.result import ConvertResult
from tasks import images, layers

__all__ = ["ConvertParameters", "convert_image"]

# Of a layer's three tasks at most one works at a time, the others wait for it in their threads.
WORKERS = 3 * (len(os.sched_getaffinity(0)) + 1)


@flow(
    name="convert-image",
    flow_run_name="convert {parameters.source}",
    task_runner=ThreadPoolTaskRunner(max_workers=WORKERS),
    persist_result=True,
    result_serializer="json",
)
def convert_image(parameters: ConvertParameters) -> dict[str, Any]:
    """Convert one OCI or Docker image into a Nydus image, push it, and read it back.

    Returns digests, sizes in bytes, the verdict and where the report is.
    """
    job = parameters.job()
    record = Record(job, flow_run.id or uuid4().hex, parameters.reports)
    with record.watching():
        result = _convert(job, record, parameters.verify)
    result = record.finish(result)
    if parameters.store_limit:
        job.store.prune(parameters.store_limit)
    return summary(result)


def _convert(job: Job, record: Record, verify: bool) -> ConvertResult:
    fetched = record.fetched(images.fetch_manifest(job))
    if fetched.unchanged is not None:
        return record.unchanged(fetched)
    # The largest first: else the run may end with one thread at work on the last layer.
    order = sorted(fetched.layers, key=lambda layer: -layer.descriptor.size)
    chains = [layers.submit(job, fetched, layer) for layer in order]
    built = record.layers([chain.result() for chain in chains])
    bootstraps = [images.merge_bootstrap.submit(job, image, built) for image in fetched.images]
    merged = [bootstrap.result() for bootstrap in bootstraps]
    published = images.push_manifest(job, fetched, built, merged)
    return record.converted(fetched, merged, published, images.verify(job, published) if verify else None)
