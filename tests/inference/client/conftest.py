"""A PGM file, a client of AWS without a network, and DICOMweb servers with the images of one study."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from wsgiref.simple_server import make_server

import boto3
import pytest
from botocore.stub import Stubber

from mammopipe.inference.client import sender
from mammopipe.inference.client.client import MammographyClient
from tests.inference.client.dicomweb_archive import (
    PLUGIN,
    Archive,
    Quiet,
    answers,
    free_port,
)
from tests.inference.dicom.dicom_examples import changed, opened, phantom_exams

PGM = b"P5\n2 1\n255\n\x01\x02"


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stubber, MammographyClient]]:
    """Return a client that sends nothing, and the stubber that gives AWS's answers."""
    runtime = boto3.client(
        "sagemaker-runtime", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    monkeypatch.setattr(sender, "runtime", lambda *_: runtime)
    with Stubber(runtime) as stubber:
        yield stubber, MammographyClient("breast", backoff_seconds=0)


@pytest.fixture
def archive() -> Iterator[tuple[str, Archive]]:
    held = Archive()
    server = make_server("127.0.0.1", 0, held, handler_class=Quiet)  # type: ignore[arg-type]
    listener = threading.Thread(target=server.serve_forever)
    listener.start()
    yield f"http://127.0.0.1:{server.server_port}", held
    server.shutdown()
    listener.join()
    server.server_close()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("Orthanc")
    if program is None or PLUGIN is None:
        pytest.skip("Orthanc with its DICOMweb plugin (Debian's orthanc, orthanc-dicomweb) is not installed")
    folder = tmp_path_factory.mktemp("orthanc")
    ports = [free_port(), free_port()]
    settings = {
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{ports[0]}/dicom-web"
    deadline = time.monotonic() + 60
    while not answers(f"{url}/studies"):
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
        time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """The images of one study, each with its view and its number."""
    return [
        changed(
            data,
            SOPClassUID=opened(data).file_meta.MediaStorageSOPClassUID,
            ViewPosition="MLO",
            InstanceNumber=number,
            PatientName="DOE^JANE",
        )
        for number, data in enumerate(phantom_exams()[0], 1)
    ]
