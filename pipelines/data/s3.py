"""S3 as folders of files: list, upload, download. Each error is one line that names the location and the reason."""

import base64
import hashlib
import mimetypes
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    LoginError,
    NoCredentialsError,
    SSOError,
    TokenRetrievalError,
)

from mammopipe.pipelines.data.multipart import composite_sha256, upload_parts
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.errors import StorageError
from mammopipe.processing.files import sha256

THREADS = 8
"""Number of parallel transfers."""
NO_OBJECTS = hashlib.sha256().hexdigest()[:16]
"""The digest of an empty folder."""
SINGLE_PUT_BYTES = 512 * 2**20
"""Files above this size are uploaded in parts."""
QUICK = Config(
    connect_timeout=3,
    read_timeout=60,
    retries={"total_max_attempts": 2, "mode": "standard"},
    max_pool_connections=8 * THREADS,
    s3={"addressing_style": "path"},
)
"""Client settings: fail within seconds without a response; path style, since few emulators support virtual hosts."""
CONTENT_TYPES = {
    ".pgm": "image/x-portable-graymap",
    ".dcm": "application/dicom",
    ".pth": "application/octet-stream",
    ".gz": "application/gzip",
    ".sha256": "text/plain",
}
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
"""AWS's error codes for expired credentials; a new login resolves them."""
LOGGED_OUT = (CredentialRetrievalError, LoginError, SSOError, TokenRetrievalError)
"""botocore's errors that a new login resolves."""
_Item = TypeVar("_Item")
_REASONS = {
    "404": "does not exist",
    "NoSuchKey": "does not exist",
    "NoSuchBucket": "bucket does not exist",
    "403": "access is denied",
    "AccessDenied": "access is denied",
    "InvalidAccessKeyId": "the credentials are not known there",
    "SignatureDoesNotMatch": "the credentials are wrong",
    "InvalidBucketName": "not a valid bucket name",
    **dict.fromkeys(EXPIRED, "the credentials have expired"),
    "NoSuchUpload": "another command has finished or cancelled this upload; run this command again",
    "301": "the bucket is in another region",
    "PermanentRedirect": "the bucket is in another region",
}


class ExpiredAccessError(StorageError):
    """The credentials for S3 have expired."""

    exit_code = 4


@dataclass(frozen=True)
class S3Object:
    """One object in a listing."""

    key: str
    size: int
    etag: str


@dataclass
class Storage:
    """One S3 service. With `cache`, it keeps a copy of each upload, and reads the same object from there."""

    client: Any
    """A boto3 S3 client."""
    cache: Path | None = None
    """Folder of the copies, on the same disk as the jobs' folders; None keeps no copies."""
    _sent: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """The service's URL."""
        return str(self.client.meta.endpoint_url)

    def ensure_bucket(self, bucket: str) -> None:
        """Create the bucket if it is missing."""
        with self._errors(f"s3://{bucket}"):
            names = [item["Name"] for item in self.client.list_buckets()["Buckets"]]
            if bucket not in names:
                # S3 refuses us-east-1 as a location constraint; a bucket without one is created there.
                region = self.client.meta.region_name
                options = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
                self.client.create_bucket(Bucket=bucket, **options)

    def list(self, uri: str) -> list[S3Object]:
        """Return the objects whose key starts with that of `uri`, sorted by key, without folder markers."""
        place = S3Uri.parse(uri)
        with self._errors(uri):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.key)
            return [
                S3Object(item["Key"], item["Size"], item["ETag"].strip('"'))
                for page in pages
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")
            ]

    def digest(self, uri: str) -> str:
        """Return a digest of a folder: names, sizes and entity tags of its objects; `NO_OBJECTS` if it is empty."""
        place, digest = S3Uri.parse(f"{uri.rstrip('/')}/"), hashlib.sha256()
        for item in self.list(str(place)):
            digest.update(f"{place.name_below(item.key)} {item.size} {item.etag}\n".encode())
        return digest.hexdigest()[:16]

    def holds(self, place: S3Uri, path: Path) -> bool:
        """Return whether S3 states the SHA-256 of this file's content for an object.

        An object that was uploaded without a SHA-256 counts as different.
        """
        key = {"Bucket": place.bucket, "Key": place.key}
        with self._errors(str(place)):
            stated = self.client.head_object(**key, ChecksumMode="ENABLED").get("ChecksumSHA256")
            # An object in parts has a composite SHA-256, which depends on the size of the parts.
            if stated and "-" in stated:
                part = self.client.head_object(**key, PartNumber=1)["ContentLength"]
                return bool(stated == composite_sha256(path, part))
        return bool(stated) and base64.b64decode(stated).hex() == sha256(path)

    def read(self, uri: str) -> bytes:
        """Return the bytes of one object."""
        place = S3Uri.parse(uri)
        with self._errors(uri):
            with closing(self.client.get_object(Bucket=place.bucket, Key=place.key)["Body"]) as body:
                return bytes(body.read())

    def put(self, path: Path, uri: str) -> None:
        """Upload one file with its content type."""
        place = S3Uri.parse(uri)
        with self._errors(uri):
            if path.stat().st_size > SINGLE_PUT_BYTES:
                etag = upload_parts(self.client, path, place, content_type(path))
            else:
                with path.open("rb") as body:
                    etag = self.client.put_object(
                        Bucket=place.bucket,
                        Key=place.key,
                        Body=body,
                        ContentType=content_type(path),
                        ChecksumAlgorithm="SHA256",
                    )["ETag"]
        self._remember(path, place, etag.strip('"'))

    def fetch(self, place: S3Uri, item: S3Object, target: Path) -> None:
        """Write one object to the file `target`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = self._copy_of(place.bucket, item.key)
        if copy is not None and self._sent.get((place.bucket, item.key)) == item.etag:
            shutil.copyfile(copy, target)
            return
        with self._errors(f"s3://{place.bucket}/{item.key}"):
            self.client.download_file(place.bucket, item.key, str(target))

    def upload(self, folder: Path, uri: str) -> int:
        """Upload every file below `folder` to below `uri`; returns the number of files."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        base = uri.rstrip("/")
        together(lambda path: self.put(path, f"{base}/{path.relative_to(folder).as_posix()}"), files)
        return len(files)

    def download(
        self,
        uri: str,
        folder: Path,
        objects: Sequence[S3Object] | None = None,
        on_arrival: Callable[[S3Object], object] = lambda item: None,
    ) -> int:
        """Download the objects under a prefix into a folder.

        Args:
            uri: The S3 prefix.
            folder: Target folder.
            objects: The objects to download; by default all under the prefix.
            on_arrival: Called for each downloaded object, from several threads.

        Returns:
            The number of objects.

        Raises:
            StorageError: S3 failed, or a key leads out of the folder.
        """
        place, folder = S3Uri.parse(uri), folder.resolve()
        chosen = self.list(uri) if objects is None else objects
        folder.mkdir(parents=True, exist_ok=True)
        for item in chosen:
            # Before the first download: a key such as `../x` must not write outside the folder.
            if not (folder / place.name_below(item.key)).resolve().is_relative_to(folder):
                raise StorageError(f"s3://{place.bucket}/{item.key}: the key leads out of its folder")

        def bring(item: S3Object) -> None:
            self.fetch(place, item, folder / place.name_below(item.key))
            on_arrival(item)

        together(bring, list(chosen))
        return len(chosen)

    def mount(self, uri: str, folder: Path, objects: Sequence[S3Object]) -> None:
        """Show objects under a prefix as files that are read on use (input mode FastFile).

        SageMaker mounts the prefix. This program cannot mount anything, so it downloads the objects.
        """
        self.download(uri, folder, objects)

    def _remember(self, path: Path, place: S3Uri, etag: str) -> None:
        copy = self._copy_of(place.bucket, place.key)
        if copy is not None:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            shutil.copyfile(path, copy)
            self._sent[place.bucket, place.key] = etag

    def _copy_of(self, bucket: str, key: str) -> Path | None:
        return self.cache / hashlib.sha256(f"{bucket}/{key}".encode()).hexdigest() if self.cache is not None else None

    @contextmanager
    def _errors(self, where: str) -> Iterator[None]:
        """Turn boto3's exceptions into a `StorageError` that names the location, the service and the reason."""
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code == "400" and error.operation_name.startswith("Head"):
                # The answer to HEAD has no body, so S3 cannot name the error. boto3's own requests are well formed;
                # what S3 answers with 400 is an expired token.
                code = EXPIRED[0]
            kind = ExpiredAccessError if code in EXPIRED else StorageError
            raise kind(f"{where}: {_REASONS.get(code, f'refused with {code}')} (S3 at {self.endpoint})") from None
        except LOGGED_OUT as error:
            raise ExpiredAccessError(f"{where}: AWS credentials: {' '.join(str(error).split())}") from None
        except NoCredentialsError:
            raise StorageError(f"{where}: no AWS credentials found (S3 at {self.endpoint})") from None
        except (BotoCoreError, boto3.exceptions.Boto3Error, OSError) as error:
            if isinstance(error, OSError) and error.filename:
                raise  # an error of a local file, such as a full disk, not of S3
            name = type(error).__name__
            raise StorageError(f"{where}: S3 at {self.endpoint} cannot be reached or broke off ({name})") from None


def content_type(path: Path) -> str:
    """Return the media type for an object made from this file."""
    return CONTENT_TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def s3_client(session: boto3.Session, endpoint_url: str | None = None) -> Any:
    """Return an S3 client that fails quickly, at `endpoint_url`, at `$AWS_ENDPOINT_URL_S3` or on AWS."""
    return session.client("s3", endpoint_url=endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3"), config=QUICK)


def together(work: Callable[[_Item], None], items: Sequence[_Item]) -> None:
    """Call `work` for all items, several at a time; the first error, or Ctrl-C, prevents the remaining calls."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        for done in [pool.submit(work, item) for item in items]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
