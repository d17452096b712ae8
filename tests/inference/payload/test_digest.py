"""The digest of a body: computed once, in the executor only if it was started."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mammopipe.inference.payload.digest import Digest

DATA = bytes(range(256)) * 100


class Counting(ThreadPoolExecutor):
    """An executor that counts what it is given."""

    count = 0

    def submit(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        return super().submit(*arguments, **options)


def test_a_digest_is_computed_once_whether_it_was_started_or_not() -> None:
    expected = hashlib.sha256(DATA).hexdigest()
    with Counting(1) as executor:
        assert Digest(DATA, executor).result() == expected and executor.count == 0
        digest = Digest(DATA, executor)
        digest.start()
        digest.start()
        assert digest.result() == digest.result() == expected and executor.count == 1
