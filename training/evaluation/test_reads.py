"""Registers that an evaluation has read the frozen test split."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.files import sha256
from mammopipe.processing.splits import read_register
from mammopipe.training.evaluation.data import SegmentedData
from mammopipe.training.fitting.checkpoint import code_digest
from mammopipe.training.model.description import WEIGHTS_FILE


def earlier_reads(paths: ContainerPaths) -> list[read_register.Read] | None:
    """Return the entries of the job's register of test reads; `None` if it has no register.

    The job calls this before it reads a test image, so that an unreadable register ends it before any figure exists.
    """
    folder = paths.processing_input(read_register.NAME)
    return read_register.entries(folder) if folder.is_dir() else None


def register_read(
    evaluation: Mapping[str, Any],
    data: SegmentedData,
    model: Path,
    paths: ContainerPaths,
    earlier: Sequence[read_register.Read] | None,
) -> dict[str, Any]:
    """Append this evaluation to the register of test reads.

    The register is a processing input; the new entry is a processing output that goes to the same folder on S3.

    Args:
        evaluation: `evaluation.json` so far.
        data: The segmented images.
        model: The selected model's directory.
        paths: The container's folders.
        earlier: The entries before this one (`earlier_reads`); `None` without a register, which the result states.

    Returns:
        `test_reads` of `evaluation.json`.
    """
    test = evaluation["selected"]["test"]
    read = read_register.Read(
        date=datetime.now(UTC).strftime(read_register.DATE),
        test_digest=read_register.frozen_test_digest(data.records),
        images=test["images"],
        synthetic=evaluation["synthetic"],
        protocol=evaluation["protocol"],
        network=evaluation["selected"]["cnn"],
        model=sha256(model / WEIGHTS_FILE),
        code=code_digest(),
        macro_auc=test["macro_auc"]["value"],
        malignant_auc=test["malignant_auc"]["value"],
    )
    read_register.append(paths.processing_output(read_register.NAME), read)
    return read_register.account(earlier, read)
