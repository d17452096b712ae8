"""Makes all boto3 sessions of a process share the descriptions of AWS's services.

boto3 reads them again for each session, 50 to 500 ms for a service, and each emulated account has its own session.
"""

from functools import cache
from typing import Any

import boto3
from botocore.loaders import JSONFileLoader


def read_once(*services: str) -> None:
    """Make this process and its forks read each description only once, and read those of `services` now."""
    read = cache(JSONFileLoader().load_file)

    def load_file(self: JSONFileLoader, file_path: str) -> Any:
        return read(file_path)

    JSONFileLoader.load_file = load_file
    session = boto3.Session(region_name="us-east-1")
    for service in services:
        session.client(service).close()
