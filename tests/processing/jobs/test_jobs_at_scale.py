"""Several instances of a job, and a job that is started again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mammopipe.processing.container.paths import BASE_VARIABLE
from mammopipe.processing.datasets.manifest import read_manifest
from mammopipe.processing.errors import ConfigError, QuarantineError
from mammopipe.processing.jobs import augment, prepare, segment
from mammopipe.processing.jobs.missed import refuse_missed
from mammopipe.processing.jobs.stage import Stage
from mammopipe.processing.phantoms.mias_tree import write_mias_tree

FILMS = 18
HOSTS = 3
Stages = dict[str, Path]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_mias_tree(folder, films=FILMS, seed=2)
    return folder


def share(folder: Path, host: int, hosts: int, target: Path) -> Path:
    """Link this host's share of a folder, file by file, as ShardedByS3Key deals out the keys."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files[host::hosts]:
        link = target / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    target.mkdir(exist_ok=True, parents=True)
    return target


@pytest.fixture
def run_on(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Stages]:
    """Return a function that runs the three jobs on a number of hosts, images sharded and manifests replicated."""

    def job(name: str, hosts: int, whole: Stages, sharded: Stages, main: Callable[[], None], output: str) -> Path:
        union = tmp_path / f"{hosts}-hosts" / output
        for host in range(hosts):
            base = tmp_path / f"{hosts}-hosts" / f"{name}-{host}"
            inputs = base / "processing" / "input"
            inputs.mkdir(parents=True)
            for key, folder in whole.items():
                (inputs / key).symlink_to(folder)
            for key, folder in sharded.items():
                share(folder, host, hosts, inputs / key)
            names = [f"algo-{number + 1}" for number in range(hosts)]
            (base / "config").mkdir()
            config = {"current_host": names[host], "hosts": names}
            (base / "config" / "resourceconfig.json").write_text(json.dumps(config))
            monkeypatch.setenv(BASE_VARIABLE, str(base))
            main()
            for path in (base / "processing" / "output" / output).rglob("*"):
                if path.is_file():
                    target = union / path.relative_to(base / "processing" / "output" / output)
                    assert not target.exists(), f"{target.name} of one host overwrites that of another"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(target)
        return union

    def run(hosts: int, source: Path = tree, quarantine: str = "0.05") -> Stages:
        words, limit = ["--dataset", "mias", "--max-height", "256"], ["--max-quarantine", quarantine]
        prepared = job("prepare", hosts, {"labels": source}, {"images": source},
                       lambda: prepare.main([*words, *limit]), "prepared")  # fmt: skip
        lists = dict.fromkeys(("manifest", "stage", "unseen"), prepared)
        copied = job("augment", hosts, lists, {"images": prepared / "images"},
                     lambda: augment.main(["--copies", "1", *limit]), "data_augmentation")  # fmt: skip
        segmented = job(
            "segment",
            hosts,
            {
                **dict.fromkeys(("prepared-manifest", "prepared-stage"), prepared),
                **dict.fromkeys(("augmented-manifest", "augmented-unseen"), copied),
            },
            {"prepared-images": prepared / "images", "augmented-images": copied / "images"},
            lambda: segment.main(["--height", "96", "--width", "64"]),
            "data_segmentation",
        )
        return {"prepared": prepared, "augmented": copied, "segmented": segmented}

    return run


@pytest.mark.parametrize(("films", "hosts"), [(FILMS, HOSTS), (4, 5)])
def test_several_instances_write_what_one_writes_even_if_some_get_no_image(
    run_on: Callable[..., Stages], tree: Path, tmp_path: Path, films: int, hosts: int
) -> None:
    source = tree
    if films != FILMS:
        source = tmp_path / "few"
        write_mias_tree(source, films=films, seed=2)
    one, several = run_on(1, source), run_on(hosts, source)
    for name in one:
        images = sorted(path.relative_to(one[name]) for path in one[name].rglob("images/*/*.png"))
        assert images == sorted(path.relative_to(several[name]) for path in several[name].rglob("images/*/*.png"))
        assert all((one[name] / path).read_bytes() == (several[name] / path).read_bytes() for path in images)
        assert read_manifest(one[name]) == read_manifest(several[name])
        parts = sorted(several[name].glob("manifest-*.csv"))
        assert len(parts) == hosts
        rows = [line for part in parts for line in part.read_text().splitlines()[1:]]
        assert sorted(rows) == sorted((one[name] / "manifest.csv").read_text().splitlines()[1:])


@pytest.mark.parametrize("hosts", [1, 2, HOSTS])
def test_an_image_of_the_table_that_no_instance_saw_is_missed(
    run_on: Callable[..., Stages], tree: Path, tmp_path: Path, hosts: int
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tree, source)
    for path in sorted(source.glob("*.pgm"))[:2]:
        path.unlink()
    with pytest.raises(QuarantineError, match=f"2 of {FILMS} images"):
        run_on(hosts, source)
    shutil.rmtree(tmp_path / f"{hosts}-hosts")
    stages = run_on(hosts, source, "0.12")  # two of eighteen, though each is many of one instance's images
    name = "prepared" if hosts == 1 else "augmented"
    rows = [row for path in stages[name].glob("quarantine*.csv") for row in path.read_text().splitlines()[1:]]
    assert len(rows) == 2 and all(row.startswith("mdb00") for row in rows), "those that are tolerated are told"


def test_a_picture_that_vanished_between_two_stages_is_missed(
    run_on: Callable[..., Stages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = augment.main

    def lose(arguments: list[str]) -> None:
        original(arguments)
        sorted((tmp_path / "1-hosts" / "prepared" / "images" / "test").glob("*.png"))[0].unlink()

    monkeypatch.setattr(augment, "main", lose)
    with pytest.raises(QuarantineError, match="1 images of the manifest have no file"):
        run_on(1)


def test_an_image_is_missing_only_if_no_instance_saw_it(tmp_path: Path) -> None:
    for host, ids in (("algo-1", "a b"), ("algo-2", "b c")):
        (tmp_path / f"manifest-{host}.csv").touch()
        (tmp_path / f"unseen-{host}.csv").write_text("image_id\n" + "\n".join(ids.split()))
    with pytest.raises(QuarantineError, match="segment: 1 of 10 images were seen by none of its instances"):
        refuse_missed(tmp_path, tmp_path, "segment", 9)
    assert refuse_missed(tmp_path, tmp_path, "prepare", 9, max_share=0.1) == ["b"]


def test_images_of_another_folder_are_missed_whatever_share_may_be_refused(
    run_on: Callable[..., Stages], tree: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(tree / "Info.txt", source)
    with pytest.raises(QuarantineError, match=f"{FILMS} of {FILMS} images were seen by none"):
        run_on(2, source, "1")


@pytest.mark.parametrize(("hosts", "suffix"), [(1, ".PGM"), (2, ".Dcm")])
def test_an_image_that_no_row_names_is_refused(
    run_on: Callable[..., Stages], tree: Path, tmp_path: Path, hosts: int, suffix: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tree, source)
    shutil.copy(source / "mdb001.pgm", source / f"stranger{suffix}")
    with pytest.raises(QuarantineError, match=f"stranger{suffix}: no row in the label table names this image"):
        run_on(hosts, source, "0")


@pytest.mark.parametrize(
    ("manifests", "lists"), [("algo-1 algo-2", "algo-1"), ("algo-1", "algo-1 algo-2"), ("algo-1", "algo-2")]
)
def test_an_instance_without_its_manifest_or_its_list_is_refused(tmp_path: Path, manifests: str, lists: str) -> None:
    for host in manifests.split():
        (tmp_path / f"manifest-{host}.csv").touch()
    for host in lists.split():
        (tmp_path / f"unseen-{host}.csv").write_text("image_id\n")
    with pytest.raises(ConfigError, match="prepare: manifests of the instances algo-1"):
        refuse_missed(tmp_path, tmp_path, "prepare", 9)


def test_refused_rows_of_the_table_are_a_share_of_all_images_not_of_one_instances(tmp_path: Path) -> None:
    def stage(host: str) -> Stage:
        return Stage("prepare", tmp_path, host, ["algo-1", "algo-2", "algo-3"], {}, "")

    rows = [("a", "no such class"), ("b", "no such class")]
    for host in ("algo-1", "algo-2"):
        made = stage(host)
        prepare.list_refused_rows(made, rows, 38, 0.05)
        made.close(max_quarantine=0.05)
    assert (tmp_path / "quarantine-algo-1.csv").read_text().count("no such class") == 2
    assert "no such class" not in (tmp_path / "quarantine-algo-2.csv").read_text()
    with pytest.raises(QuarantineError, match="2 of 39 images were refused"):
        prepare.list_refused_rows(stage("algo-3"), rows, 37, 0.05)


def make_container(tree: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folders of one Prepare container and point the job at them."""
    (base / "processing" / "input").mkdir(parents=True)
    for name in ("labels", "images"):
        (base / "processing" / "input" / name).symlink_to(tree)
    monkeypatch.setenv(BASE_VARIABLE, str(base))


def test_a_restarted_job_keeps_complete_images_and_makes_the_rest(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_container(tree, tmp_path, monkeypatch)
    output = tmp_path / "processing" / "output" / "prepared"
    close = prepare.Stage.close
    monkeypatch.setattr(prepare.Stage, "close", lambda *_, **__: None)
    prepare.main(["--dataset", "mias"])
    assert not (output / "manifest.csv").exists()

    journal = (output / ".journal.jsonl").read_text().splitlines(keepends=True)
    (output / ".journal.jsonl").write_text("".join(journal[:-2]) + journal[-2][:40])
    images = {path.stem: path for path in output.rglob("*.png")}
    done = [json.loads(line)["image_id"] for line in journal[1:-2]]
    images[done[0]].write_bytes(images[done[0]].read_bytes()[:500])
    kept = {name: images[name].stat().st_mtime_ns for name in done[1:]}
    capsys.readouterr()

    monkeypatch.setattr(prepare.Stage, "close", close)
    prepare.main(["--dataset", "mias"])
    assert f"{FILMS - 3} of {FILMS} images were finished before" in capsys.readouterr().out
    assert {name: images[name].stat().st_mtime_ns for name in kept} == kept
    assert len(read_manifest(output)) == FILMS
    assert not (output / ".journal.jsonl").exists()
    assert all(len(path.read_bytes()) > 1000 for path in images.values())


def test_a_restarted_job_with_other_settings_makes_every_image(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_container(tree, tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(prepare.Stage, "close", lambda *_, **__: None)
        prepare.main(["--dataset", "mias"])
    prepare.main(["--dataset", "mias", "--max-height", "512"])
    assert "finished before" not in capsys.readouterr().out
    assert {record.height for record in read_manifest(tmp_path / "processing" / "output" / "prepared")} == {512}
