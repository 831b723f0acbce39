"""One layer: pull → build → push."""

from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture

from nydusify.conversion import steps
from nydusify.conversion.job import Job
from nydusify.conversion.publish import BUILDER
from nydusify.conversion.record import LayerSteps
from nydusify.conversion.source import SourceLayer
from nydusify.digest import Digest
from nydusify.oci.descriptor import Descriptor
from tasks.policy import FRESH, RETRIES


def build_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Layer, options and builder: what determines a blob, and the version that knows how to read the result."""
    layer, options = parameters["layer"], parameters["job"].options.build
    determines = f"{layer.descriptor.digest} {layer.diff_id} {layer.compression} {options.key} {BUILDER}"
    return f"build-{Digest.of(determines.encode()).hex}"


@task(name="pull layer", task_run_name="pull {layer.descriptor.digest}", **RETRIES, **FRESH)
def pull_layer(job: Job, layer: SourceLayer, at_target: dict[Digest, Descriptor]) -> steps.Pulled:
    """Bring a layer into the store, unless the target has its blob."""
    return steps.pull(job, layer, at_target)


@task(
    name="build layer",
    task_run_name="build {layer.descriptor.digest}",
    cache_key_fn=build_key,
    persist_result=True,
    result_serializer="json",
    **RETRIES,
)
def build_layer(job: Job, layer: SourceLayer, pulled: steps.Pulled | None = None) -> steps.Built:
    """Build the blob and bootstrap of a layer in the store. The same layer and options give the same bytes."""
    return steps.build(job, layer, pulled)


@task(name="push blob", task_run_name="push {built.layer.facts.blob}", **RETRIES, **FRESH)
def push_blob(job: Job, built: steps.Built) -> steps.Pushed:
    """Push a blob, unless the target has it."""
    return steps.push(job, built.layer)


@dataclass(frozen=True, slots=True)
class Chain:
    """The task runs of one layer."""

    layer: SourceLayer
    pulled: PrefectFuture[steps.Pulled] | None
    built: PrefectFuture[steps.Built]
    pushed: PrefectFuture[steps.Pushed]

    def result(self) -> LayerSteps:
        """Wait; raises what a task raised."""
        pulled = self.pulled.result() if self.pulled is not None else None
        return LayerSteps(self.layer, pulled, self.built.result(), self.pushed.result())


def submit(job: Job, fetched: steps.Fetched, layer: SourceLayer) -> Chain:
    """Start pull → build → push of one layer.

    A layer whose blob and bootstrap are at hand is not pulled, and its build may come from Prefect's cache. Of any
    other the cache may remember a blob that is gone by now: it is built anew, and the cache entry with it.
    """
    if layer.descriptor.digest in fetched.held:
        pulled, built = None, build_layer.submit(job, layer)
    else:
        pulled = pull_layer.submit(job, layer, fetched.at_target)
        built = build_layer.with_options(refresh_cache=True).submit(job, layer, pulled)
    return Chain(layer, pulled, built, push_blob.submit(job, built))
