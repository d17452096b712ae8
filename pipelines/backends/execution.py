"""What an execution on either local backend is given, what it keeps, and how it serves an endpoint."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mammopipe.pipelines.backends import control_plane
from mammopipe.pipelines.backends.expressions import Scope
from mammopipe.pipelines.backends.jobs import JobContext, fetch_model
from mammopipe.pipelines.backends.local_endpoint import LocalEndpoint, add_async, serve
from mammopipe.pipelines.backends.step_status import Status, StepRecord, StepStatuses


@dataclass(kw_only=True)
class Execution(ABC):
    """One run of one pipeline on one of the local backends."""

    scope: Scope
    context: JobContext
    sagemaker: Any
    """A boto3 client of the emulator that keeps the registry and checks each request."""
    serving: Path
    """Folder of the endpoints' models."""
    environment: Mapping[str, str]
    """What reaches S3: for what is served, and for the SDK's session."""
    cores: int
    changed: Callable[[list[StepRecord]], None]
    """Called whenever a step starts or ends."""
    step_statuses: StepStatuses = field(init=False)
    endpoints: list[LocalEndpoint] = field(default_factory=list)
    """The servers that endpoint steps started; stopping them is the caller's."""

    @abstractmethod
    def run(self) -> Status:
        """Run the steps to the end."""

    @abstractmethod
    def server(self, step: str, container: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return the `environment` and the `command` with which `local_endpoint.serve` starts a step's container."""

    def serve(self, step: str, request: Mapping[str, Any]) -> None:
        """Start what an endpoint step serves, and the async API before it where it has one."""
        served = control_plane.create_endpoint(self.sagemaker, request)
        log, processes = self.context.logs / f"{step}.log", self.context.processes
        folder = fetch_model(self.context.storage, served.container["ModelDataUrl"], self.serving / step)
        how = self.server(step, served.container, folder)
        endpoint = serve(request["EndpointName"], folder, log, processes, threads=self.cores, **how)
        if served.queue:
            front = log.with_stem(f"{step}-runtime")
            endpoint = add_async(endpoint, served.queue, folder, front, processes, self.environment)
        self.endpoints.append(endpoint)
