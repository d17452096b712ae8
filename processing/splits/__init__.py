"""Divides images into splits by patient, and verifies that nothing leaks from one split into another.

`assignment` divides; `leakage_audit` compares the splits, with `near_duplicates`, `duplicate_index`,
`pixel_confirmation` and `local_agreement` for images of the same original; `read_register` counts how often a test
split was read.
"""

from typing import TYPE_CHECKING, Any

from mammopipe.processing.splits.assignment import assign_splits

if TYPE_CHECKING:
    from mammopipe.processing.splits.leakage_audit import audit_leakage

__all__ = ["assign_splits", "audit_leakage"]


def __getattr__(name: str) -> Any:
    # Loaded when used: the audit needs OpenCV and the image readers, the division and the register do not.
    if name == "audit_leakage":
        from mammopipe.processing.splits.leakage_audit import audit_leakage

        return audit_leakage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
