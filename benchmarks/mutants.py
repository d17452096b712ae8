"""Mutation testing of the decision code: `python -m benchmarks.mutants [MODULE ...]`, or `make mutants`.

mutmut changes one thing at a time (a sign, a comparison, a constant) and runs the tests that reach it; a mutant
survives if no test fails. pyproject.toml lists the mutated modules and their tests under `tool.mutants`. Prints the
fraction of killed mutants of each module and the names of the survivors; the exit code is 1 below `LEAST_KILLED`.

mutmut expects folders that match the import names, so it works on a copy laid out that way.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDERS = ("processing", "training", "inference", "pipelines")
LEAST_KILLED = 0.9
TIMED_OUT = {-24, 24, 36, 152, 255}
"""Exit codes of tests that exceeded their time. On a busy machine this proves nothing, so they run again with more."""
KILLED = {1, 3} | TIMED_OUT
"""Exit codes that count as killed: failed tests, an internal error, or tests that exceeded even the second limit."""
PATIENCE = (15, 200)
"""The first and the second limit of a mutant's tests, in multiples of their usual time."""
PROFILE = """\
from hypothesis import Phase, settings

settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, max_examples=30, phases=[Phase.explicit, Phase.generate]
)
"""
"""Few examples, the same for each mutant. Hypothesis need not shrink a failing example, because a failure is enough."""


def main(arguments: Sequence[str]) -> int:
    """Return 1 if fewer than `LEAST_KILLED` of the mutants are killed, else 0."""
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutants"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="the end of a path; default: all")
    options = parser.parse_args(arguments)
    chosen = {
        module: tests
        for module, tests in configured.items()
        if not options.modules or module.endswith(tuple(options.modules))
    }
    if not chosen:
        parser.error(f"no module ends with {', '.join(options.modules)}; there are {', '.join(configured)}")
    killed = total = 0
    for module, tests in chosen.items():
        codes = mutate(module, tests)
        survivors = [mutant for mutant, code in codes.items() if code not in KILLED]
        killed, total = killed + len(codes) - len(survivors), total + len(codes)
        print(f"{1 - len(survivors) / max(len(codes), 1):6.1%} of {len(codes):>4}  {module}", flush=True)
        print(*(f"         survived: {mutant}" for mutant in survivors), sep="\n", flush=True)
    print(f"{killed / max(total, 1):6.1%} of {total:>4} mutants killed; at least {LEAST_KILLED:.0%} are required")
    return 0 if killed >= LEAST_KILLED * total > 0 else 1


def mutate(module: str, tests: Sequence[str]) -> Mapping[str, Any]:
    """Return the tests' exit code for each mutant of a module, by the mutant's name."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
        shutil.copytree(ROOT / "mammopipe", tree / "mammopipe", ignore=ignore)
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, tree / "mammopipe" / folder, ignore=ignore)
        shutil.copytree(ROOT / "tests", tree / "tests", ignore=ignore)
        conftest = tree / "tests" / "conftest.py"
        conftest.write_text(PROFILE + conftest.read_text(encoding="utf-8"), encoding="utf-8")
        settings: dict[str, Any] = {
            "source_paths": ["mammopipe"],
            "only_mutate": [module],
            "also_copy": ["tests"],
            "pytest_add_cli_args": ["-p", "no:xdist", "-p", "no:cacheprovider", "--hypothesis-profile", "mutants"],
            "pytest_add_cli_args_test_selection": tests,
        }
        for multiple in PATIENCE:
            # After a change of this setting, mutmut runs only the mutants again that timed out.
            settings["timeout_multiplier"] = multiple
            lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
            text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
            (tree / "pyproject.toml").write_text("\n".join([text, "[tool.mutmut]", *lines, ""]), encoding="utf-8")
            done = subprocess.run(
                [sys.executable, "-m", "mutmut", "run"], cwd=tree, check=False, stdout=subprocess.PIPE
            )
            found = outcomes(tree / "mutants")
            if module not in found:
                sys.exit(f"mutmut made no mutants of {module}:\n{done.stdout.decode(errors='replace')[-3000:]}")
            if done.returncode and None in found[module].values():
                sys.exit(f"the tests of {module} do not run:\n{done.stdout.decode(errors='replace')[-3000:]}")
            if not TIMED_OUT & set(found[module].values()):
                break
        return found[module]


def outcomes(mutants: Path) -> dict[str, Mapping[str, Any]]:
    """Return the tests' exit code for each mutant, by module; mutmut stores them in files next to the mutated ones."""
    found = {}
    for path in sorted(mutants.rglob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            found[path.relative_to(mutants).with_suffix("").as_posix()] = codes
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
