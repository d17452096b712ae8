"""Checklist of four reporting guidelines, with what a run of the pipeline provides for each item.

Sources: CLAIM 2024 update (Tejani et al. 2024, https://doi.org/10.1148/ryai.240300), TRIPOD+AI (Collins et al. 2024,
https://doi.org/10.1136/bmj-2023-078378), STARD 2015 (Bossuyt et al. 2015, https://doi.org/10.1136/bmj.h5527) and
DECIDE-AI (Vasey et al. 2022, https://doi.org/10.1038/s41591-022-01772-9; Roman numerals are its generic items). Item
numbers are those of the guidelines. `CHECKED` names those that were compared with a printed list of the items; the
others are marked. `python -m mammopipe.training.reporting.reporting_guidelines` prints
docs/reference/reporting-guidelines.md.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

FILE = "reporting_guidelines.toml"

UNCHECKED = "\N{DAGGER}"
"""Marks a number that was not compared with the statement."""
CHECKED: Mapping[str, frozenset[str]] = {
    "claim": frozenset(),
    "tripod": frozenset("1 2 3a 3b 3c 4 5a 5b 6a 6b 6c".split()),
    "stard": frozenset("1 2 3 4 5 6 7 8 9 10a 10b 11 12a 12b 13a 13b 14 15 16 17 18 19 26 27 28 29 30".split()),
    "decide": frozenset("1 I 2 II III 3 4".split()),
}
"""Numbers that were compared with a list of the items: of STARD 2015 its table as reprinted, and the paper on its
development (Korevaar et al. 2016, https://doi.org/10.1186/s41073-016-0014-7); of DECIDE-AI and TRIPOD+AI the beginning
of their tables as reprinted; of the CLAIM 2024 update none."""
LEGEND = f"{UNCHECKED} numbering not checked against the statement"


class Status(StrEnum):
    """What a run does for an item."""

    MET = "met by"
    NOT_MET = "not met"
    SITE = "for the site to fill"


@dataclass(frozen=True)
class Item:
    """One topic with its items in each guideline."""

    topic: str
    status: Status
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
    """Where it stands: `report:SECTION` (its id), `card:HEADING`, or `doc:PATH`."""

    @property
    def where(self) -> str:
        """The references as a reader sees them."""
        kinds = {"report": "report.html#{}", "card": "model_card.md, {}", "doc": "{}"}
        pairs = (reference.split(":", 1) for reference in self.references)
        return "; ".join(kinds[kind].format(name) for kind, name in pairs)


ITEMS = tuple(
    Item(**{**value, "status": Status(value["status"]), "references": tuple(value.get("references", ()))})
    for value in tomllib.loads((Path(__file__).parent / "templates" / FILE).read_text(encoding="utf-8"))["item"]
)


def lines() -> Iterator[str]:
    """Yield the rows of the table in Markdown."""
    yield "| topic | CLAIM 2024 | TRIPOD+AI | STARD 2015 | DECIDE-AI | | what | where |"
    yield "|---|---|---|---|---|---|---|---|"
    for item in ITEMS:
        numbers = (_marked(name, getattr(item, name)) for name in CHECKED)
        yield f"| {item.topic} | {' | '.join(numbers)} | {item.status} | {item.text} | {item.where} |"


def _marked(guideline: str, numbers: str) -> str:
    """Return the numbers of one cell; those that were not compared with the statement are marked."""
    return ", ".join(f"{each}{'' if each in CHECKED[guideline] else UNCHECKED}" for each in numbers.split())


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
            f"{LEGEND}: no list of the items of the CLAIM 2024 update",
            "was at hand, and of TRIPOD+AI, STARD 2015 and DECIDE-AI only parts.",
            "",
            *lines(),
            "",
        )
    )


if __name__ == "__main__":
    print(page(), end="")
