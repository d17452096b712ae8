"""What both local backends share: the inputs and state of an execution, and how it serves an endpoint."""

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
    """A boto3 client of the emulator that holds the registry and checks each request."""
    serving: Path
    """Folder of the endpoints' models."""
    environment: Mapping[str, str]
    """Variables that give access to S3, for served models and for the SDK's session."""
    cores: int
    changed: Callable[[list[StepRecord]], None]
    """Called whenever a step starts or ends."""
    step_statuses: StepStatuses = field(init=False)
    endpoints: list[LocalEndpoint] = field(default_factory=list)
    """The servers that endpoint steps started; the caller must stop them."""

    @abstractmethod
    def run(self) -> Status:
        """Run all steps."""

    @abstractmethod
    def server(self, step: str, container: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return the `environment` and `command` for `local_endpoint.serve` to start a step's container."""

    def serve(self, step: str, request: Mapping[str, Any]) -> None:
        """Start the server of an endpoint step, and the async API in front of it if it has one."""
        served = control_plane.create_endpoint(self.sagemaker, request)
        log, processes = self.context.logs / f"{step}.log", self.context.processes
        folder = fetch_model(self.context.storage, served.container["ModelDataUrl"], self.serving / step)
        options = self.server(step, served.container, folder)
        endpoint = serve(request["EndpointName"], folder, log, processes, threads=self.cores, **options)
        if served.async_config:
            async_log = log.with_stem(f"{step}-runtime")
            endpoint = add_async(endpoint, served.async_config, folder, async_log, processes, self.environment)
        self.endpoints.append(endpoint)
