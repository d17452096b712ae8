"""Lists the items of four reporting guidelines, and what a run of the pipeline provides for each item.

Sources: CLAIM 2024 update (Tejani et al. 2024, https://doi.org/10.1148/ryai.240300), TRIPOD+AI (Collins et al. 2024,
https://doi.org/10.1136/bmj-2023-078378), STARD 2015 (Bossuyt et al. 2015, https://doi.org/10.1136/bmj.h5527) and
DECIDE-AI (Vasey et al. 2022, https://doi.org/10.1038/s41591-022-01772-9; Roman numerals are its generic items). Item
numbers are those of the guidelines; what they were compared with is in `COMPARED`. `python -m
mammopipe.training.reporting.reporting_guidelines` prints docs/reference/reporting-guidelines.md.
"""

import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

FILE = "reporting_guidelines.toml"

GUIDELINES = ("claim", "tripod", "stard", "decide")
"""The fields of an item with the numbers of each guideline."""
COMPARED = (
    "Every item number was compared with a full list of the guideline's items in a secondary source: for TRIPOD+AI and "
    "STARD 2015 with the original wording of the items, for the CLAIM 2024 update and DECIDE-AI with a summary of each "
    "item. The publications themselves were not available."
)


class ItemStatus(StrEnum):
    """Whether a run meets an item."""

    MET = "met by"
    NOT_MET = "not met"
    SITE = "for the site to fill"


@dataclass(frozen=True)
class Item:
    """One topic with its items in each guideline."""

    topic: str
    status: ItemStatus
    text: str
    """What the run provides, what it lacks, or who must provide the information."""
    claim: str = ""
    """Item numbers in the CLAIM 2024 update, separated by spaces."""
    tripod: str = ""
    """Item numbers in TRIPOD+AI."""
    stard: str = ""
    """Item numbers in STARD 2015."""
    decide: str = ""
    """Item numbers in DECIDE-AI."""
    references: tuple[str, ...] = ()
    """Where the information is: `report:SECTION` (the section's id), `card:HEADING`, or `doc:PATH`."""

    @property
    def where(self) -> str:
        """The references as a reader sees them."""
        kinds = {"report": "report.html#{}", "card": "model_card.md, {}", "doc": "{}"}
        pairs = (reference.split(":", 1) for reference in self.references)
        return "; ".join(kinds[kind].format(name) for kind, name in pairs)


ITEMS = tuple(
    Item(**{**value, "status": ItemStatus(value["status"]), "references": tuple(value.get("references", ()))})
    for value in tomllib.loads((Path(__file__).parent / "templates" / FILE).read_text(encoding="utf-8"))["item"]
)


def lines() -> Iterator[str]:
    """Yield the rows of the table in Markdown."""
    yield "| topic | CLAIM 2024 | TRIPOD+AI | STARD 2015 | DECIDE-AI | | what | where |"
    yield "|---|---|---|---|---|---|---|---|"
    for item in ITEMS:
        numbers = (", ".join(getattr(item, name).split()) for name in GUIDELINES)
        yield f"| {item.topic} | {' | '.join(numbers)} | {item.status} | {item.text} | {item.where} |"


def page() -> str:
    """Return docs/reference/reporting-guidelines.md."""
    return "\n".join(
        (
            "# Reporting guidelines",
            "",
            "What a run of the pipeline provides for each item of four guidelines: the CLAIM 2024 update",
            "([Tejani et al. 2024](https://doi.org/10.1148/ryai.240300)), TRIPOD+AI",
            "([Collins et al. 2024](https://doi.org/10.1136/bmj-2023-078378)), STARD 2015",
            "([Bossuyt et al. 2015](https://doi.org/10.1136/bmj.h5527)) and DECIDE-AI",
            "([Vasey et al. 2022](https://doi.org/10.1038/s41591-022-01772-9)), which is about the first use in a",
            "clinic; Roman numerals are its generic items. The model card of each run has the same table.",
            "",
            *textwrap.wrap(COMPARED, 118),
            "",
            *lines(),
            "",
        )
    )


if __name__ == "__main__":
    print(page(), end="")
