"""A Prefect server for the tests that run flows, and what it remembers of a run."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest

STARTUP = 180
"""Seconds; on a busy machine the server takes most of a minute."""
DEADLINE = 60.0


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server with an empty database and empty result storage. Only tests that ask for it pay for it."""
    pytest.importorskip("prefect")
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # Without heartbeats a flow that is done need not wait for the next one.
    quick = {PREFECT_LOCAL_STORAGE_PATH: tmp_path_factory.mktemp("results"), PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with prefect_test_harness(server_startup_timeout=STARTUP), temporary_settings(quick):
        yield


@dataclass(frozen=True)
class SeenRun:
    """What the server tells of a task run."""

    task: str
    name: str
    state: str
    tries: int


def runs_of(flow_run_id: UUID, count: int) -> list[SeenRun]:
    """The ``count`` task runs of a flow run. They reach the server as events, a little after the flow is done."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    ended = time.monotonic() + DEADLINE
    with get_client(sync_client=True) as client:
        while True:
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
            runs = client.read_task_runs(flow_run_filter=wanted)
            if len(runs) >= count and all(run.state is not None and run.state.is_final() for run in runs):
                return [
                    SeenRun(run.task_key.rpartition("-")[0], run.name, run.state_name or "", run.run_count)
                    for run in runs
                ]
            assert time.monotonic() < ended, [(run.name, run.state_name) for run in runs]
            time.sleep(0.2)
