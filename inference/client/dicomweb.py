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
from typing import Any

from mammopipe.inference.client.errors import EndpointUnreachableError, RequestRefusedError
from mammopipe.processing.errors import ConfigError

_STORAGE = "1.2.840.10008.5.1.4.1.1."
PRESENTATION_CLASSES = (f"{_STORAGE}1.2", f"{_STORAGE}13.1.4", f"{_STORAGE}1.1", f"{_STORAGE}1")
"""Mammography, breast projection and digital X-ray images for presentation, and computed radiographs.

Images for processing are excluded because they show the same exposures before processing. Secondary captures are
excluded because they may be earlier results of mammopipe.
"""
TIMEOUT_SECONDS = 60.0
ATTEMPTS, BACKOFF_MILLISECONDS = 3, 200
SOP_CLASS, SOP_INSTANCE, SERIES, NUMBER = "00080016", "00080018", "0020000E", "00200013"
_UID = re.compile(r"[0-9.]{1,64}")


class DicomWeb:
    """A DICOMweb server.

    Args:
        url: Its base URL, below which `studies` lies.
        headers: HTTP headers of every request, such as Authorization.
        timeout_seconds: How long one request may wait for the server.

    Raises:
        ConfigError: The extra `dicomweb` is not installed, or `url` is not a URL.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"dicomweb={url!r}: must be the http:// or https:// URL of a DICOMweb server")
        try:
            from dicomweb_client import DICOMwebClient
        except ModuleNotFoundError as error:
            raise ConfigError(f"DICOMweb needs {error.name}: pip install 'mammopipe[dicomweb]'") from None
        self._client = DICOMwebClient(url, headers=dict(headers or {}), timeout=timeout_seconds)
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
        """
        if _UID.fullmatch(study) is None:
            raise ConfigError(f"study={study!r}: must be a Study Instance UID, digits and points")
        with _reaching("QIDO-RS"):
            found = self._client.search_for_instances(study, fields=[SOP_CLASS, SOP_INSTANCE, SERIES, NUMBER])
            if not all(isinstance(one, dict) for one in found):
                raise ValueError("an instance that is no object")
        images = [one for one in found if _value(one, SOP_CLASS) in PRESENTATION_CLASSES]
        if not images:
            classes = ", ".join(sorted({_value(one, SOP_CLASS) for one in found})) or "none"
            raise RequestRefusedError(
                "no_images", f"the study has no image for presentation; its classes are {classes}"
            )
        images.sort(key=lambda one: (_number(one), _value(one, SOP_INSTANCE)))
        return [self._retrieve(study, _value(one, SERIES), _value(one, SOP_INSTANCE)) for one in images]

    def store(self, results: Sequence[bytes], study: str) -> None:
        """Store DICOM files in a study.

        Raises:
            EndpointUnreachableError: The server cannot be reached, does not store every file, or does not confirm it.
        """
        from pydicom import dcmread

        instances = [dcmread(io.BytesIO(data)) for data in results]
        with _reaching("STOW-RS"):
            stored = self._client.store_instances(instances, study)
        failures = [*(stored.get("FailedSOPSequence") or []), *(stored.get("OtherFailuresSequence") or [])]
        failed = [str(item.get("FailureReason", "not stated")) for item in failures]
        if failed:
            rule = (
                f"the server did not store {len(failed)} of {len(results)} results; failure reasons {', '.join(failed)}"
            )
            raise EndpointUnreachableError("dicomweb_store", rule)
        named = {str(item.get("ReferencedSOPInstanceUID", "")) for item in stored.get("ReferencedSOPSequence") or []}
        unnamed = [one for one in instances if str(one.SOPInstanceUID) not in named]
        if named and unnamed:
            rule = f"the server confirms {len(instances) - len(unnamed)} of {len(instances)} results as stored"
            raise EndpointUnreachableError("dicomweb_store", rule)

    def _retrieve(self, study: str, series: str, instance: str) -> bytes:
        with _reaching("WADO-RS"):
            # Any transfer syntax: the endpoint reads the image as it is stored.
            dataset = self._client.retrieve_instance(study, series, instance, media_types=(("application/dicom", "*"),))
            stream = io.BytesIO()
            if str(dataset.get("SOPInstanceUID", "")) != instance:
                raise ValueError("another instance than the one asked for")
            dataset.save_as(stream, enforce_file_format=True)
        return stream.getvalue()


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
        raise EndpointUnreachableError("dicomweb", f"{service}: no DICOMweb answer ({type(error).__name__})") from None


def _number(instance: Mapping[str, Any]) -> float:
    """Return the instance number; what is no number comes last."""
    try:
        return float(_value(instance, NUMBER) or 0)
    except ValueError:
        return float("inf")


def _value(instance: Mapping[str, Any], tag: str) -> str:
    """Return the first value of an attribute in the DICOM JSON model (PS3.18 F.2)."""
    values: Iterable[Any] = instance.get(tag, {}).get("Value") or [""]
    return str(next(iter(values)))
