"""Mutation testing of the code that decides: `python -m benchmarks.mutants [--only PATH]`, or `make mutants`.

mutmut changes one thing at a time (a sign, a comparison, a constant) and runs the tests that reach it; a mutant that no
test notices survives. Which modules are mutated, and by which tests, stands in pyproject.toml under `tool.mutmut`.
Prints the share of killed mutants of each module, the names of the survivors, and ends with 1 below `LEAST_KILLED`.

mutmut expects the packages to lie under the names by which they are imported, so it works on a copy that has them so.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDERS = ("processing", "training", "inference", "pipelines")
LEAST_KILLED = 0.9
KILLED = {1, 3, 36, 24, 152}
"""Exit codes of a mutant's tests that mean that it was noticed: failed, internal error, timed out."""


def main(arguments: Sequence[str]) -> int:
    """Return 1 where less than `LEAST_KILLED` of the mutants are killed, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("--only", metavar="PATH", help="one module, as mammopipe/training/metrics/scorecard.py")
    parser.add_argument("-o", "--output", type=Path, help="also write the survivors as JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        tree = copy_tree(Path(name), options.only)
        subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", "2"], cwd=tree, check=False)
        found = outcomes(tree / "mutants")
    killed, survivors = Counter[str](), dict[str, list[str]]()
    for module, mutants in found.items():
        killed[module] = sum(code in KILLED for code in mutants.values())
        survivors[module] = [mutant for mutant, code in mutants.items() if code not in KILLED]
        print(f"{killed[module] / max(len(mutants), 1):6.1%} of {len(mutants):>4}  {module}")
        print(*(f"         survived: {mutant}" for mutant in survivors[module]), sep="\n")
    total = sum(map(len, found.values()))
    print(f"{killed.total() / max(total, 1):6.1%} of {total:>4} mutants killed; at least {LEAST_KILLED:.0%} is wanted")
    if options.output:
        options.output.write_text(json.dumps(survivors, indent=2) + "\n", encoding="utf-8")
    return 0 if killed.total() >= LEAST_KILLED * total > 0 else 1


def copy_tree(folder: Path, only: str | None) -> Path:
    """Copy packages, tests and configuration into `folder`, the packages under their import names; return it."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    shutil.copytree(ROOT / "mammopipe", folder / "mammopipe", ignore=ignore)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / "mammopipe" / name, ignore=ignore)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignore)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if only:
        before, after = text.split("only_mutate = [", 1)
        text = f"{before}only_mutate = {json.dumps([only])}\n{after.split(']', 1)[1]}"
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def outcomes(mutants: Path) -> dict[str, Mapping[str, Any]]:
    """Return the exit code of the tests of each mutant by module, as mutmut keeps them beside the mutated files."""
    found = {}
    for path in sorted(mutants.rglob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            found[path.relative_to(mutants).with_suffix("").as_posix()] = codes
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
