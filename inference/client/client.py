"""The client for clinical applications: sends an image or an exam, returns a typed answer. Needs only boto3.

    client = MammographyClient("mammopipe", uploads=Uploads("s3://BUCKET/mammopipe/async/input"))
    answer = client.predict(Path("image.dcm"))
    if answer.referral.refer: ...                  # the model abstains: a reader must judge
    exam = client.predict_exam([Path("lcc.dcm"), ExamImage(png, laterality="R", view="MLO")])

The answer types are in `mammopipe.inference.client.answers`, the errors (all subclasses of `InferenceError`) in
`mammopipe.inference.client.errors`. Importing this module loads neither torch nor the server.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mammopipe.inference.client.answers import (
    Answer,
    Decision,
    Finding,
    ImageAnswer,
    QualityWarning,
    Reason,
    Referral,
    Region,
)
from mammopipe.inference.client.async_endpoint import Uploads
from mammopipe.inference.client.body import ExamImage, Source
from mammopipe.inference.client.errors import (
    DeadlineError,
    EndpointBusyError,
    EndpointFaultError,
    EndpointUnreachableError,
    InferenceError,
    RequestRefusedError,
)
from mammopipe.inference.client.exam_answers import BreastAnswer, ExamAnswer, ExamScore, RefusedView
from mammopipe.inference.client.retry import LONGEST_SECONDS, Retry
from mammopipe.inference.client.sender import Delivery, EndpointAddress, Sender
from mammopipe.inference.client.transport import (
    Options,
    checked_name,
    checked_region,
    checked_url,
    json_object,
    request_members,
)
from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.processing.errors import ConfigError

__all__ = [
    "Answer",
    "BreastAnswer",
    "DeadlineError",
    "Decision",
    "Delivery",
    "EndpointBusyError",
    "EndpointFaultError",
    "EndpointUnreachableError",
    "ExamAnswer",
    "ExamImage",
    "ExamScore",
    "Finding",
    "ImageAnswer",
    "InferenceError",
    "MammographyClient",
    "QualityWarning",
    "Reason",
    "Referral",
    "RefusedView",
    "Region",
    "RequestRefusedError",
    "Uploads",
]

REALTIME_BYTES, SERVERLESS_BYTES = 25 * 2**20, 4 * 2**20
"""Largest body in bytes of a real-time InvokeEndpoint call on AWS, and of a call to a serverless endpoint.

Source: "SageMaker AI Model Hosting FAQs" (SageMaker Developer Guide): "25 MB for real-time endpoints and 4 MB for
serverless endpoints". The earlier quota of 6 MB was 6 * 2^20 bytes, so MB is taken as 2^20 bytes here, too.
"""
REALTIME_SECONDS, ASYNC_SECONDS = 180.0, 900.0
"""Default deadlines of a call, in seconds."""


class MammographyClient:
    """A client of one endpoint, on AWS or on any server that implements the SageMaker runtime API.

    Args:
        endpoint_name: Name of the endpoint.
        endpoint_url: URL of the server; `None` calls AWS. A loopback URL needs neither credentials nor a region.
        region: AWS region; `None` takes it from the environment.
        attempts: Most calls made for one request, the first included.
        backoff_seconds: Upper bound of the first wait between attempts; it doubles with each attempt
            (`mammopipe.inference.client.retry.Retry`).
        deadline_seconds: Time limit of a whole call: loading, all attempts, the waits between them, and reading the
            answer. Default: 180, or 900 with `uploads`.
        delivery: When calls are real-time and when they are async.
        uploads: Place on S3 for the bodies of async calls; `None` allows real-time calls only.
        async_endpoint: Name of the endpoint for async calls. Default: `endpoint_name` with `-async` appended.
        async_endpoint_url: URL of the server for async calls. Default: `endpoint_url`.
        serverless: Whether the endpoint is serverless; its bodies are limited to 4 MB.
        container_reads_s3: Whether the endpoint was deployed without network isolation and may fetch an exam's S3
            objects itself. Otherwise the client fetches them.
        storage: A boto3 S3 client that replaces the default one.

    Raises:
        ConfigError: An argument breaks its rule.
    """

    def __init__(
        self,
        endpoint_name: str,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        attempts: int = Retry.attempts,
        backoff_seconds: float = Retry.backoff_seconds,
        deadline_seconds: float | None = None,
        delivery: Delivery = Delivery.BY_SIZE,
        uploads: Uploads | None = None,
        async_endpoint: str | None = None,
        async_endpoint_url: str | None = None,
        serverless: bool = False,
        container_reads_s3: bool = False,
        storage: Any = None,
    ) -> None:
        if deadline_seconds is not None and not 0 < deadline_seconds <= LONGEST_SECONDS:
            rule = f"must be above 0 and at most {LONGEST_SECONDS:g}"
            raise ConfigError(f"deadline_seconds={deadline_seconds} {rule}")
        if delivery is Delivery.ASYNC and uploads is None:
            raise ConfigError("delivery=async needs uploads, the place on S3 for the bodies")
        async_name = f"{endpoint_name}-async" if async_endpoint is None else async_endpoint
        # The default name may be too long, which matters only if there can be async calls.
        if async_endpoint is not None or uploads is not None:
            checked_name(async_name, "async_endpoint")
        self._sender = Sender(
            target=EndpointAddress(checked_name(endpoint_name), checked_url(endpoint_url)),
            asynchronous=EndpointAddress(async_name, checked_url(async_endpoint_url or endpoint_url)),
            region=checked_region(region),
            retry=Retry(attempts, backoff_seconds),
            deadline_seconds=deadline_seconds or (REALTIME_SECONDS if uploads is None else ASYNC_SECONDS),
            delivery=delivery,
            uploads=uploads,
            largest_body=SERVERLESS_BYTES if serverless else REALTIME_BYTES,
            container_reads_s3=container_reads_s3,
            given_storage=storage,
        )

    def predict(
        self,
        source: Source,
        *,
        laterality: str | None = None,
        view: str | None = None,
        operating_point: str | None = None,
        heatmap: bool = False,
        target: str | None = None,
    ) -> Answer:
        """Return the endpoint's answer to one image.

        Args:
            source: A path, an `s3://` URI, or the bytes of a PGM, PNG or DICOM file.
            laterality: L or R, if the file does not state it. PGM and PNG files never do.
            view: CC, MLO, ..., if the file does not state it. PGM and PNG files never do.
            operating_point: The threshold that decides: `sensitivity` (default) or `specificity`.
            heatmap: Whether the answer includes a heatmap and its regions.
            target: The class whose evidence the heatmap shows (default: malignant).

        Raises:
            InferenceError: One of its subclasses.
        """
        options = {
            "laterality": laterality,
            "view": view,
            "operating_point": operating_point,
            "heatmap": "true" if heatmap else None,
            "target": target,
        }
        return Answer.from_json(json_object(self._ask(source, AnswerType.JSON, options)))

    def predict_exam(
        self,
        images: Sequence[ExamImage | Source],
        *,
        operating_point: str | None = None,
        heatmap: bool = False,
        target: str | None = None,
    ) -> ExamAnswer:
        """Return the endpoint's answer to an exam: for each image, for each breast and for the whole exam.

        Args:
            images: The images of one patient and one study.
            operating_point: The threshold that decides: `sensitivity` (default) or `specificity`.
            heatmap: Whether the answer includes heatmaps and their regions.
            target: The class whose evidence the heatmaps show (default: malignant).

        Raises:
            InferenceError: One of its subclasses. If one image is the cause, `detail["image"]` is its index.
        """
        options = {"operating_point": operating_point, "heatmap": "true" if heatmap else None, "target": target}
        return ExamAnswer.from_json(json_object(self._ask_exam(images, AnswerType.JSON, options)))

    def overlay(
        self, source: Source, *, laterality: str | None = None, view: str | None = None, target: str | None = None
    ) -> bytes:
        """Return the image with its heatmap drawn over it, as a PNG of the same size.

        Arguments and errors are the same as for `predict`.
        """
        return self._ask(source, AnswerType.OVERLAY, {"laterality": laterality, "view": view, "target": target})

    def dicom_report(
        self,
        source: Source | Sequence[ExamImage | Source],
        *,
        operating_point: str | None = None,
        regions: bool = True,
        target: str | None = None,
    ) -> bytes:
        """Return the measurements of a DICOM image or exam as a DICOM structured report (PS3.16, TID 1500).

        Args:
            source: The image, or the images of one exam.
            operating_point: The threshold that decides: `sensitivity` (default) or `specificity`.
            regions: Whether the report includes the regions of the heatmaps.
            target: The class whose evidence the regions show (default: malignant).

        Returns:
            The bytes of the DICOM file.

        Raises:
            InferenceError: One of its subclasses. The code is `no_source_identity` if an image is not a DICOM file.
        """
        options = {"operating_point": operating_point, "heatmap": "true" if regions else None, "target": target}
        return self._dicom(source, options)

    def dicom_cad_report(
        self,
        source: Source | Sequence[ExamImage | Source],
        *,
        operating_point: str | None = None,
        target: str | None = None,
    ) -> bytes:
        """Return a Mammography CAD SR (PS3.16, TID 4000) with the regions of the heatmaps.

        Arguments and errors are the same as for `dicom_report`. In addition, the error code is `no_view` if the
        laterality or view of an image is unknown.
        """
        return self._dicom(source, {"operating_point": operating_point, "target": target, "result": "cad-sr"})

    def dicom_presentation_state(
        self, source: Source | Sequence[ExamImage | Source], *, target: str | None = None
    ) -> bytes:
        """Return a Grayscale Softcopy Presentation State with the regions of the heatmaps.

        Arguments and errors are the same as for `dicom_report`. In addition, the error code is `not_acceptable` if
        the images need more than one presentation state.
        """
        return self._dicom(source, {"target": target, "result": "gsps"})

    def dicom_results(
        self,
        source: Source | Sequence[ExamImage | Source],
        *,
        operating_point: str | None = None,
        target: str | None = None,
    ) -> bytes:
        """Return a ZIP archive of all DICOM results and the JSON answer.

        Arguments and errors are the same as for `dicom_report`.
        """
        options = {"operating_point": operating_point, "target": target, "result": "all"}
        return self._dicom(source, options, AnswerType.ZIP)

    def _dicom(
        self,
        source: Source | Sequence[ExamImage | Source],
        options: Options,
        form: AnswerType = AnswerType.DICOM,
    ) -> bytes:
        if isinstance(source, Path | str | bytes):
            return self._ask(source, form, options)
        return self._ask_exam(source, form, options)

    def dicom_overlay(
        self, source: Source, *, laterality: str | None = None, view: str | None = None, target: str | None = None
    ) -> bytes:
        """Return the overlay of a DICOM image as a DICOM Secondary Capture in the same study.

        Arguments and errors are the same as for `predict`. In addition, the error code is `no_source_identity` if the
        image is not a DICOM file.
        """
        options = {"laterality": laterality, "view": view, "target": target, "result": "overlay"}
        return self._ask(source, AnswerType.DICOM, options)

    def _ask(self, source: Source, form: AnswerType, options: Options) -> bytes:
        """Return the container's answer to one image."""
        return self._sender.image(source, request_members("", form, options))

    def _ask_exam(self, images: Sequence[ExamImage | Source], form: AnswerType, options: Options) -> bytes:
        """Return the container's answer to several images."""
        named = [image if isinstance(image, ExamImage) else ExamImage(image) for image in images]
        return self._sender.exam(named, request_members("", form, options))
