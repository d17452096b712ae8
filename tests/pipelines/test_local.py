from pathlib import Path

from .conftest import OUT, Runner, Scripts, output, processing, training


def test_x(run: Runner, scripts: Scripts) -> None:
    make = scripts(
        "make",
        "paths.processing_output('o').mkdir(exist_ok=True); (paths.processing_output('o')/'a.txt').write_text(' '.join(arguments))",
    )
    r = run(
        processing("Make", make, arguments=["x", {"Get": "Parameters.P"}], outputs=["o"]),
        parameters=[{"Name": "P", "Type": "String", "DefaultValue": "dflt"}],
    )
    print([x.as_dict() for x in r.records.values()])
    assert run.text(f"{OUT}/Make/o/a.txt") == "x dflt"
