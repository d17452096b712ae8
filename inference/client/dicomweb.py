"""Fetches a study from a DICOMweb server and stores results: QIDO-RS, WADO-RS, STOW-RS (PS3.18), by `dicomweb-client`.

    pacs = DicomWeb("https://pacs.example/dicom-web", headers={"Authorization": "Bearer ..."})
    archive = MammographyClient("mammopipe").dicom_results(pacs.mammograms(study))
    pacs.store(result_files(archive), study)

Needs the extra `dicomweb`. The endpoint itself needs no network, because the caller fetches and stores.
"""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from mammopipe.inference.client.errors import EndpointUnreachableError, RequestRefusedError
from mammopipe.inference.client.retry import LONGEST_SECONDS, Deadline
from mammopipe.inference.client.transport import checked_url
from mammopipe.processing.errors import ConfigError

if TYPE_CHECKING:
    from pydicom import Dataset
    from requests import Response

_STORAGE = "1.2.840.10008.5.1.4.1.1."
PRESENTATION_CLASSES = (f"{_STORAGE}1.2", f"{_STORAGE}13.1.4", f"{_STORAGE}1.1", f"{_STORAGE}1")
"""Mammography, breast projection and digital X-ray images for presentation, and computed radiographs.

Images for processing are excluded because they show the same exposures before processing. Secondary captures are
excluded because they may be earlier results of mammopipe.
"""
TIMEOUT_SECONDS, DEADLINE_SECONDS = 60.0, 600.0
ATTEMPTS, BACKOFF_MILLISECONDS = 3, 200
SOP_CLASS, SOP_INSTANCE, SERIES, NUMBER = "00080016", "00080018", "0020000E", "00200013"
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
"""A UID as it may stand in a path: digits between points (PS3.5, 9.1); leading zeros occur."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\x20-\x7e]*")
"""A header's name and value (RFC 9110, 5.1 and 5.5)."""
JSON_TYPE, XML_TYPE = "application/dicom+json", "application/dicom+xml"


class DicomWeb:
    """A DICOMweb server.

    Args:
        url: Its base URL, below which `studies` lies.
        headers: HTTP headers of every request, such as Authorization.
        timeout_seconds: How long one request may wait for the server's next bytes.
        deadline_seconds: Time limit of a whole call: all requests, their retries, and reading the answers.

    Raises:
        ConfigError: The extra `dicomweb` is not installed, or an argument breaks its rule.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        checked_url(url, "dicomweb")
        for name, value in (headers or {}).items():
            if _HEADER.fullmatch(f"{name}: {value}") is None:
                raise ConfigError(f"header {name!r}: must be visible ASCII and blanks, without a newline")
        for name, seconds in (("timeout_seconds", timeout_seconds), ("deadline_seconds", deadline_seconds)):
            if not 0 < seconds <= LONGEST_SECONDS:
                raise ConfigError(f"{name}={seconds} must be above 0 and at most {LONGEST_SECONDS:g}")
        try:
            from dicomweb_client import DICOMwebClient
            from requests import Session
        except ModuleNotFoundError as error:
            raise ConfigError(f"DICOMweb needs {error.name}: pip install 'mammopipe[dicomweb]'") from None
        self._deadline_seconds = deadline_seconds
        session = Session()
        session.hooks["response"].append(_plain_type)
        session.headers["Accept"] = JSON_TYPE
        self._client = DICOMwebClient(url, session=session, headers=dict(headers or {}), timeout=timeout_seconds)
        # The library's own five attempts take half a minute if there is no server.
        self._client.set_http_retry_params(max_attempts=ATTEMPTS, wait_exponential_multiplier=BACKOFF_MILLISECONDS)

    def mammograms(self, study: str) -> list[bytes]:
        """Return the images for presentation of a study as DICOM files, in the order of their instance numbers.

        Args:
            study: Study Instance UID.

        Raises:
            ConfigError: `study` is not a UID.
            RequestRefusedError: Code `no_images`: the study has no such images. The message names the classes it has.
            EndpointUnreachableError: The server cannot be reached, or refuses.
            DeadlineError: The images have not arrived within the deadline.
        """
        deadline = Deadline(self._deadline_seconds)
        return deadline.bound(partial(self._mammograms, _checked_uid(study), deadline))

    def _mammograms(self, study: str, deadline: Deadline) -> list[bytes]:
        with _reaching("QIDO-RS"):
            found = self._client.search_for_instances(study, fields=[SOP_CLASS, SOP_INSTANCE, SERIES, NUMBER])
            if not all(isinstance(one, dict) for one in found):
                raise ValueError("an instance that is not a JSON object")
        images = [one for one in found if _value(one, SOP_CLASS) in PRESENTATION_CLASSES]
        if not images:
            classes = ", ".join(sorted({_value(one, SOP_CLASS) for one in found})) or "none"
            raise RequestRefusedError(
                "no_images", f"the study has no image for presentation; its classes are {classes}"
            )
        images.sort(key=lambda one: (_number(one), _value(one, SOP_INSTANCE)))
        files = []
        for one in images:
            deadline.check()
            files.append(self._retrieve(study, _value(one, SERIES), _value(one, SOP_INSTANCE)))
        return files

    def store(self, results: Sequence[bytes], study: str) -> None:
        """Store DICOM files in a study.

        Raises:
            EndpointUnreachableError: The server cannot be reached, does not store every file, or does not confirm it.
            DeadlineError: The server has not answered within the deadline.
        """
        from pydicom import dcmread

        instances = [dcmread(io.BytesIO(data)) for data in results]
        deadline = Deadline(self._deadline_seconds)
        report = deadline.bound(partial(self._store, instances, _checked_uid(study)))
        if problems := _problems(report, instances):
            rule = f"{len(problems)} of {len(instances)} results are not stored: {'; '.join(problems)}"
            raise EndpointUnreachableError("dicomweb_store", rule)

    def _store(self, instances: "Sequence[Dataset]", study: str) -> "Dataset":
        """Return the server's report (PS3.18, table I.2-1), also if it stored nothing and answers 409."""
        from pydicom import Dataset
        from requests import HTTPError

        with _reaching("STOW-RS"):
            try:
                return self._client.store_instances(instances, study)
            except HTTPError as error:
                if error.response is None or error.response.status_code != HTTPStatus.CONFLICT:
                    raise
                try:
                    return Dataset.from_json(error.response.json())
                except (ValueError, KeyError, TypeError):
                    raise error from None

    def _retrieve(self, study: str, series: str, instance: str) -> bytes:
        with _reaching("WADO-RS"):
            if not (_UID.fullmatch(series) and _UID.fullmatch(instance)):
                raise ValueError("an invalid UID")
            # Any transfer syntax: the endpoint reads the image as it is stored.
            dataset = self._client.retrieve_instance(study, series, instance, media_types=(("application/dicom", "*"),))
            stream = io.BytesIO()
            # A server that mixes up instances would otherwise attach a result to the wrong image.
            if str(dataset.get("SOPInstanceUID", "")) != instance:
                raise ValueError("an instance other than the requested one")
            dataset.save_as(stream, enforce_file_format=True)
        return stream.getvalue()


def _checked_uid(study: str) -> str:
    if _UID.fullmatch(study) is None:
        raise ConfigError(f"study={study!r}: must be a Study Instance UID, at most 64 digits and points")
    return study


def _plain_type(response: "Response", **_: Any) -> None:
    """Remove the parameters of a report's Content-Type, with which dicomweb-client would treat the report as empty."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in (JSON_TYPE, XML_TYPE, "application/json", "application/xml"):
        response.headers["Content-Type"] = kind


def _problems(report: "Dataset", instances: "Sequence[Dataset]") -> list[str]:
    """Return one text for each result whose storage the report does not confirm."""
    names = {
        str(one.SOPInstanceUID): f"result {number} ({one.SOPClassUID.name})" for number, one in enumerate(instances, 1)
    }
    reasons = {
        str(item.get("ReferencedSOPInstanceUID", "")): f"failure reason {item.get('FailureReason', 'not stated')}"
        for item in report.get("FailedSOPSequence") or []
    }
    stored = {str(item.get("ReferencedSOPInstanceUID", "")) for item in report.get("ReferencedSOPSequence") or []}
    others = [
        f"a result that the server does not name: failure reason {item.get('FailureReason', 'not stated')}"
        for item in report.get("OtherFailuresSequence") or []
    ]
    unconfirmed = [uid for uid in names if uid in reasons or uid not in stored]
    return [f"{names[uid]}: {reasons.get(uid, 'not confirmed')}" for uid in unconfirmed] or others


def result_files(archive: bytes) -> list[bytes]:
    """Return the DICOM files in the archive of `MammographyClient.dicom_results`."""
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        return [members.read(name) for name in members.namelist() if name.endswith(".dcm")]


@contextmanager
def _reaching(service: str) -> Iterator[None]:
    """Turn transport errors into the client's own, without the address or anything that identifies the study."""
    from requests import HTTPError, RequestException

    try:
        yield
    except HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise EndpointUnreachableError("dicomweb", f"{service}: the server answered {status}", status) from None
    except RequestException as error:
        raise EndpointUnreachableError("dicomweb", f"{service}: {type(error).__name__}") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise EndpointUnreachableError(
            "dicomweb", f"{service}: not a DICOMweb answer ({type(error).__name__})"
        ) from None


def _number(instance: Mapping[str, Any]) -> float:
    """Return the instance number; infinity, which sorts last, if it is not a number."""
    try:
        return float(_value(instance, NUMBER) or 0)
    except ValueError:
        return float("inf")


def _value(instance: Mapping[str, Any], tag: str) -> str:
    """Return the first value of an attribute in the DICOM JSON model (PS3.18 F.2)."""
    values: Iterable[Any] = instance.get(tag, {}).get("Value") or [""]
    return str(next(iter(values)))
