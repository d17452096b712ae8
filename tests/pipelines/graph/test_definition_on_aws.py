"""The compiled definition passes AWS's checks, for every way to configure a run on AWS."""

import pytest

from mammopipe.pipelines import build_pipeline
from mammopipe.pipelines.backends.expressions import Scope, all_references, references, walk
from mammopipe.pipelines.backends.supported import check
from tests.pipelines.compiled import Compiled

pytestmark = pytest.mark.usefixtures("no_network")


def test_every_step_that_a_run_has_is_asked_for(definitions: dict[str, Compiled]) -> None:
    kinds = {item.kind for compiled in definitions.values() for item in compiled.asked}
    assert kinds == {"Processing", "Training", "RegisterModel", "Model", "EndpointConfig", "Endpoint"}


def test_every_reference_names_a_step_and_a_property_that_its_service_returns(compiled: Compiled) -> None:
    found = [ref for step in compiled.steps.values() for ref in all_references(step) if ref.startswith("Steps.")]
    assert len(found) > 20
    for reference in found:
        _, name, path = reference.split(".", 2)
        assert name in compiled.steps, reference
        files = {item["PropertyFileName"] for item in compiled.steps[name].get("PropertyFiles", [])}
        if path.removeprefix("PropertyFiles.") not in files:
            walk(compiled.scope.steps[name], path, reference)


def test_property_files_are_files_of_an_output(compiled: Compiled) -> None:
    for step in compiled.steps.values():
        for file in step.get("PropertyFiles", []):
            outputs = [item["OutputName"] for item in step["Arguments"]["ProcessingOutputConfig"]["Outputs"]]
            assert file["OutputName"] in outputs


def test_the_graph_has_no_cycle(compiled: Compiled) -> None:
    needs = {}
    for name, step in compiled.steps.items():
        inner = ("IfSteps", "ElseSteps")
        own = {key: value for key, value in step["Arguments"].items() if key not in inner}
        needs[name] = references(own) | set(step.get("DependsOn", []))
        for branch in inner:
            for child in step["Arguments"].get(branch, []):
                needs.setdefault(child["Name"], set()).add(name)
    done: set[str] = set()
    while left := needs.keys() - done:
        ready = {name for name in left if needs[name] <= done}
        assert ready, f"a cycle among {sorted(left)}"
        done |= ready


def test_two_compiles_are_equal_to_the_byte(compiled: Compiled) -> None:
    assert build_pipeline(compiled.config).definition() == compiled.text


def test_what_only_aws_carries_out_does_not_keep_it_from_running_here(compiled: Compiled) -> None:
    # Only AWS trains on several hosts.
    check(
        compiled.definition, Scope(compiled.scope.parameters | {"TrainingInstanceCount": 1}, compiled.scope.execution)
    )
