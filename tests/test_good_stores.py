"""Good stores stay good: several processes write one, its inputs move, its disk cannot be written to."""

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_input import call
from conftest import ROOT, annotated, command, domains_toml, draw, run
from short_runs import supervised_arguments
from test_surroundings import refused, said_by

from common.errors import InputError
from common.files import replacing
from data.domains import read_domains
from data.prepare import prepare_domain
from data.store import Store, StoreWriter, store_path
from data.verify import check_store, open_intact

OPTIONS = {"reference": "source", "scale": 1.0, "tile": 48, "overlap": 8}


def laboratory(folder: Path, count: int = 3, tile: int = 48, name: str = "domains.toml") -> Path:
    """Draw the source where it is not there yet. Returns a domains.toml."""
    if not (folder / "source").exists():
        draw(folder / "source", count, seed=1, contrast=1.0)
    (folder / name).write_text(domains_toml(OPTIONS | {"tile": tile}, source=annotated("source", folds=2)))
    return folder / name


def leftovers(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != "source.h5")


# ---- several processes --------------------------------------------------------------------------------------------


def write(writer: StoreWriter, level: int, replace: bool = True) -> bool:
    """Write and place a store of one uniform micrograph."""
    source = {"name": "a", "file": "a", "sha256": "0", "mask_sha256": None, "fold": -1, "test": False}
    cut = {"tile": 16, "overlap": 0, "scale": 1, "reference_pixel_size_nm": 1, "folds": 0}
    writer.add(np.full((40, 40), level, np.uint8), None, name="a", parent="a")
    writer.finish({"domain": "a"} | cut, [source])
    return writer.place(replace)


def test_two_writers_of_one_number_do_not_meet(tmp_path):
    """As in two containers on one disk: here even in one process."""
    path = tmp_path / "a.h5"
    with StoreWriter(path, 16, 0) as one, StoreWriter(path, 16, 0) as two:
        assert one.partial != two.partial
        write(two, 2)
        write(one, 1)
    assert (Store(path).image(0) == 1).all() and check_store(open_intact(path)) == []
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]
    with replacing(path) as one, replacing(path) as two:
        assert one != two
        one.write_bytes(b"1")
        two.write_bytes(b"2")
    with StoreWriter(path, 16, 0) as late:
        assert not write(late, 3, replace=False)
    assert path.read_bytes() == b"1" and [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path):
    """Whatever their numbers: a lock says which is which."""
    path, left = tmp_path / "a.h5", tmp_path / ".a.h5.partial-1"
    left.write_bytes(b"left by number 1, which is another process now")
    with StoreWriter(path, 16, 0) as one:
        assert not left.exists()
        with StoreWriter(path, 16, 0):
            assert one.partial.exists()
        write(one, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("tiles", [(48, 48), (48, 32)])
def test_processes_of_one_number_that_prepare_one_store_end_well(tmp_path, tiles):
    """Each is number 1 of its own PID namespace. Where they ask for two stores, one of them is refused."""
    alone = ["unshare", "-U", "-r", "-p", "-f", "--mount-proc"]
    if said_by([*alone, "true"]).returncode:
        pytest.skip("no namespaces here")
    tomls = [laboratory(tmp_path, 12, tile, f"{number}.toml") for number, tile in enumerate(tiles)]
    stores = tmp_path / "stores"
    line = ["-m", "data.prepare", "--out", stores, "--workers", 1]
    started = [
        subprocess.Popen([*alone, *command(*line, toml)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for toml in tomls
    ]
    ended = [(process, process.communicate(timeout=100)[1]) for process in started]
    good = [toml for toml, (process, _) in zip(tomls, ended, strict=True) if process.returncode == 0]
    assert good and (len(good) == 2 or len({*tiles}) == 2), ended
    for process, said in ended:
        assert "Traceback" not in said
        assert process.returncode == 0 or (process.returncode == 2 and "differs in tile" in said), said
    assert not leftovers(stores)
    assert check_store(open_intact(store_path(stores, "source"))) == []
    assert "up to date" in run(*line, good[0]).stdout


def test_a_store_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    """Both began when there was none. The same one is kept; another one is not replaced unless asked to."""
    options, domains = read_domains(laboratory(tmp_path))
    others = read_domains(laboratory(tmp_path, tile=32, name="other.toml"))[0]
    finish, meanwhile = StoreWriter.finish, []

    def overtaken(writer, *arguments):
        finish(writer, *arguments)
        if meanwhile:
            prepare_domain(meanwhile.pop(), domains["source"], tmp_path / "stores")

    monkeypatch.setattr(StoreWriter, "finish", overtaken)
    for other, force, tile in ((options, False, 48), (others, False, 32), (others, True, 48)):
        shutil.rmtree(tmp_path / "stores", ignore_errors=True)
        meanwhile.append(other)
        refusal = pytest.raises(InputError, match="differs in tile") if tile == 32 else contextlib.nullcontext()
        with refusal:
            prepare_domain(options, domains["source"], tmp_path / "stores", force)
        assert Store(store_path(tmp_path / "stores", "source")).tile == tile
        assert not leftovers(tmp_path / "stores")


def test_a_store_that_would_be_refused_replaces_nothing(tmp_path, monkeypatch):
    """Whatever the reason: it is opened under its temporary name first."""
    options, domains = read_domains(laboratory(tmp_path))
    path = prepare_domain(options, domains["source"], tmp_path / "stores")
    before, finish = path.read_bytes(), StoreWriter.finish
    monkeypatch.setattr(StoreWriter, "finish", lambda writer, parameters, _: finish(writer, parameters, []))
    others = read_domains(laboratory(tmp_path, tile=32))[0]
    with pytest.raises(InputError, match="damaged tile store"):
        prepare_domain(others, domains["source"], tmp_path / "stores", force=True)
    assert path.read_bytes() == before and not leftovers(tmp_path / "stores")


# ---- same bytes, other place --------------------------------------------------------------------------------------


def test_inputs_that_moved_leave_the_store_and_its_runs_as_they_are(tmp_path):
    """The folder renamed, paths made absolute, the domains.toml elsewhere, endings changed."""
    toml = laboratory(tmp_path)
    stores, folder = tmp_path / "stores", tmp_path / "run"
    assert call(f"prepare {toml} --out {stores}")[0] == 0
    before = store_path(stores, "source").read_bytes()
    training = " ".join(supervised_arguments(stores, folder, "--steps", 2, "--batch-size", 2))
    assert call(f"train_supervised {training}")[0] == 0
    (tmp_path / "source").rename(tmp_path / "moved")
    (tmp_path / "moved" / "images" / "m1.png").rename(tmp_path / "moved" / "images" / "m1.tif")
    (tmp_path / "far" / "away").mkdir(parents=True)
    elsewhere = tmp_path / "far" / "away" / "other.toml"
    elsewhere.write_text(domains_toml(OPTIONS, source=annotated(str(tmp_path / "moved"), folds=2)))
    for force in ("", "--force"):
        status, printed = call(f"prepare {elsewhere} --out {stores} {force}")
        assert status == 0 and "up to date" in printed
    assert store_path(stores, "source").read_bytes() == before
    status, printed = call(f"train_supervised {training}")
    assert status == 0 and "finished after 2 steps" in printed
    shutil.copy(tmp_path / "moved" / "masks" / "m0.png", tmp_path / "moved" / "masks" / "m1.png")
    status, printed = call(f"prepare {elsewhere} --out {stores}")
    assert status == 2 and "differs in the image or mask files" in printed and "--force" in printed


def test_a_store_of_an_older_version_whose_fields_share_names_is_not_up_to_date(tmp_path, monkeypatch):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0, size=(64, 128))
    text = domains_toml(OPTIONS | {"field_of_view": [64, 64]}, source=annotated("source", folds=2))
    (tmp_path / "domains.toml").write_text(text)
    options, domains = read_domains(tmp_path / "domains.toml")
    add = StoreWriter.add
    monkeypatch.setattr(StoreWriter, "add", lambda writer, *arrays, name, parent: add(
        writer, *arrays, name=parent, parent=parent))  # fmt: skip
    prepare_domain(options, domains["source"], tmp_path / "stores")
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"names of its fields of view.*--force"):
        prepare_domain(options, domains["source"], tmp_path / "stores")
    prepare_domain(options, domains["source"], tmp_path / "stores", force=True)
    prepare_domain(options, domains["source"], tmp_path / "stores")


# ---- a disk that cannot be written to -----------------------------------------------------------------------------


def test_stores_on_a_disk_that_cannot_be_written_to_are_verified(stores, tmp_path):
    """The contact sheet alone is left out, with a remark; --out draws it elsewhere, or is an error."""
    disk = tmp_path / "disk"
    disk.mkdir()
    for name in ("source", "labelled"):
        shutil.copy(store_path(stores, name), disk)
    mount = f"mount --bind {disk} {disk} && mount -o remount,bind,ro {disk} && "
    apart = ["unshare", "-U", "-r", "-m", "sh", "-c"]
    if said_by([*apart, f"{mount} true"]).returncode:
        pytest.skip("no mount namespaces here")
    code = f"""
from data.verify import main
main([{str(disk)!r}])
print("SECOND")
main([{str(disk)!r}, "--out", {str(tmp_path / "sheet.png")!r}])
print("THIRD")
main([{str(disk)!r}, "--out", {str(disk / "sheet.png")!r}])
"""
    ended = said_by([*apart, mount + shlex.join([sys.executable, "-c", code])])
    first, second, third = re.split("SECOND|THIRD", ended.stdout)
    for printed in (first, second):
        assert "2 stores verified" in printed and "phase fraction" in printed
    assert "remark: no contact sheet" in first and "Read-only file system" in first and "--out FILE" in first
    assert (tmp_path / "sheet.png").stat().st_size > 10_000 and len(list(disk.iterdir())) == 2
    assert "verified" not in third
    refused(ended, "sheet.png", "Read-only file system")
