"""What the tasks have in common: when one is tried again, and how long to wait before that."""

from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from nydusify.errors import AuthError, NotFound, TransportError


def passing(task: "Task[..., Any]", task_run: TaskRun, state: "State[Any]") -> bool:
    """Whether a failure may pass: a server or network that fails, but neither refuses nor lacks what was asked for."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransportError) and not isinstance(error, NotFound | AuthError)


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": passing,
}
"""On top of what the registry client tries by itself, for troubles of minutes."""

FRESH: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""For tasks that look at a registry or at the store, which alone know what is there."""
