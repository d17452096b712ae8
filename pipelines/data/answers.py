"""Collects the answers of a batch transform in one file of JSON lines, sorted by the names of the inputs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammopipe.pipelines.data.s3 import Storage
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes

FILE = "batch-predictions.jsonl"
SUFFIX = ".out"
"""What SageMaker appends to an object's key for the object with its answer (`TransformOutput.S3OutputPath`)."""


@dataclass(frozen=True)
class AnswerCounts:
    """Numbers of lines of an answers file."""

    answered: int
    refused: int
    missing: int


def lines(storage: Storage, source: str, output: str) -> Iterator[dict[str, Any]]:
    """Yield one object per input: `input`, its key below the source, and `answer` or `error`.

    Args:
        storage: The S3 of source and output.
        source: `s3://` folder of the images and exams.
        output: `s3://` folder of the answers.

    Yields:
        The answer of the endpoint's contract, or the error that an endpoint would give, with `code` and `message`. An
        input without an answer has the error `no_answer`.

    Raises:
        ConfigError: There are answers whose names belong to no input.
    """
    above, place = S3Uri.parse(f"{source.rstrip('/')}/"), S3Uri.parse(f"{output.rstrip('/')}/")
    found = {
        place.name_below(item.key).removesuffix(SUFFIX): item.key
        for item in storage.list(f"{output.rstrip('/')}/")
        if item.key.endswith(SUFFIX)
    }
    names = [above.name_below(item.key) for item in storage.list(f"{source.rstrip('/')}/")]
    for name in sorted(names):
        # SageMaker may put folders of the source's own key before the name.
        match = [known for known in found if known == name or known.endswith(f"/{name}")]
        if not match:
            error = {"code": "no_answer", "message": "the job left no answer; its log has the reason"}
            yield {"input": name, "error": error}
            continue
        key = found.pop(min(match, key=len))
        body = json.loads(storage.read(f"s3://{place.bucket}/{key}"))
        yield {"input": name, **({"error": body["error"]} if set(body) == {"error"} else {"answer": body})}
    if found:
        raise ConfigError(
            f"{output}: {len(found)} answers belong to no input below {source}: {', '.join(sorted(found)[:3])}"
        )


def write(storage: Storage, source: str, output: str, target: Path) -> AnswerCounts:
    """Write the answers of a batch transform to a file of JSON lines, and return how many there are of each kind."""
    found = list(lines(storage, source, output))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found)
    write_bytes(target, text.encode())
    answered = sum("answer" in line for line in found)
    missing = sum(line.get("error", {}).get("code") == "no_answer" for line in found)
    return AnswerCounts(answered, len(found) - answered - missing, missing)
