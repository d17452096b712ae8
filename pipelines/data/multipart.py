"""Uploads large files in parts, each with its SHA-256; an interrupted upload continues with the parts that S3 lacks.

Sources: "Uploading and copying objects using multipart upload" and "Checking object integrity" (S3 User Guide): the
SHA-256 of an object in parts is the SHA-256 of its parts' SHA-256, followed by a hyphen and the number of parts.
"""

import base64
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mammopipe.processing.container.s3_uri import S3Uri

PART_BYTES = 16 * 2**20
"""Size of a part, unless the file would then have too many parts."""
MOST_PARTS = 10_000
"""Maximum number of parts of an object ("Amazon S3 multipart upload limits")."""
THREADS = 4
"""Number of parts of one file that are sent at the same time."""
Part = dict[str, Any]


def upload_parts(client: Any, path: Path, place: S3Uri, content_type: str) -> str:
    """Upload a file in parts and return the object's entity tag.

    If an upload of this object was interrupted, its parts with the same content are kept.

    Args:
        client: A boto3 client of S3.
        path: The file.
        place: Its object.
        content_type: Media type of the object.
    """
    key = {"Bucket": place.bucket, "Key": place.key}
    unfinished = _unfinished(client, place)
    sums = {"ChecksumAlgorithm": "SHA256", "ChecksumType": "COMPOSITE"}
    upload = unfinished or client.create_multipart_upload(**key, ContentType=content_type, **sums)
    key_of_upload = {**key, "UploadId": upload["UploadId"]}
    pages = client.get_paginator("list_parts").paginate(**key_of_upload) if unfinished else ()
    present = {part["PartNumber"]: part for page in pages for part in page.get("Parts", [])}
    size = part_bytes(path)

    def send(number: int) -> Part:
        """Upload a part, unless S3 has it with the same checksum, and return its description."""
        with path.open("rb") as stream:
            stream.seek((number - 1) * size)
            body = stream.read(size)
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        part = present.get(number)
        if part is None or part.get("ChecksumSHA256") != digest:
            part = client.upload_part(**key_of_upload, PartNumber=number, Body=body, ChecksumSHA256=digest)
        return {"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": digest}

    numbers = range(1, -(-path.stat().st_size // size) + 1)
    parts = _in_turn(send, numbers)
    return str(client.complete_multipart_upload(**key_of_upload, MultipartUpload={"Parts": parts})["ETag"])


def part_bytes(path: Path) -> int:
    """Return the size of a file's parts in bytes; S3 accepts at most `MOST_PARTS`."""
    # -(-a // b) rounds up.
    return max(PART_BYTES, -(-path.stat().st_size // MOST_PARTS))


def composite_sha256(path: Path, size: int) -> str:
    """Return the SHA-256 that S3 states for a file that was uploaded in parts of `size` bytes."""
    digests = []
    with path.open("rb") as stream:
        while body := stream.read(size):
            digests.append(hashlib.sha256(body).digest())
    whole = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()
    return f"{whole}-{len(digests)}"


def _unfinished(client: Any, place: S3Uri) -> Part | None:
    """Return the newest unfinished upload of an object whose parts have a SHA-256."""
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=place.bucket, Prefix=place.key)
    found: list[Part] = [
        item
        for page in pages
        for item in page.get("Uploads", [])
        if item["Key"] == place.key and item.get("ChecksumAlgorithm") == "SHA256"
    ]
    return max(found, key=lambda item: item["Initiated"], default=None)


def _in_turn(send: Any, numbers: Sequence[int]) -> list[Part]:
    """Return the parts in order; the first error prevents the remaining calls."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        return [done.result() for done in [pool.submit(send, number) for number in numbers]]
    finally:
        pool.shutdown(cancel_futures=True)
