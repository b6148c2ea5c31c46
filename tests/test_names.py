"""Names of micrographs: refused before anything is cut, or the same in stores, folds, predictions and tables."""

import csv
import os
import shutil
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from bad_input import call
from conftest import annotated, command, domains_toml, draw
from test_surroundings import refused, said_by

from common.errors import InputError
from data.domains import read_domains, split_in_folds
from data.prepare import main, prepare_domain
from data.store import Store, store_path
from evaluation.floors import otsu_floor
from evaluation.scoring import ResultWriter, score
from evaluation.segment_folder import SPECIMEN

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Gefüge") for form in ("NFC", "NFD"))


def laboratory(folder: Path, *names: str | bytes, masks: tuple[str | bytes, ...] = (), **more: object) -> Path:
    """Draw micrographs of these names with masks of theirs, or of `masks`. Returns the domains.toml."""
    draw(folder / "source", len(names), seed=3, contrast=1.0)
    for part, renamed in (("images", names), ("masks", masks or names)):
        for number, name in enumerate(renamed):
            place = folder / "source" / part
            os.rename(place / f"m{number}.png", os.fsencode(place) + b"/" + os.fsencode(name) + b".png")
    (folder / "domains.toml").write_text(domains_toml(source=annotated("source", folds=2, **more)))
    return folder / "domains.toml"


@pytest.mark.parametrize(("name", "says"), [
    ("sem\\a0", r"'sem\a0.png' becomes a file name and has a slash or backslash"),
    ("粒" * 80, "has 240 bytes"),
    (b"Gef\xfcge", r"'Gef\udcfcge.png' becomes a file name and has bytes that are no UTF-8"),
    ("a\nb", r"'a\nb.png' becomes a file name and has a control character"),
    ("a\x9b1mb", "has a control character"),
    ("a\u2028b", "has a control character"),
])  # fmt: skip
def test_a_name_that_a_store_cannot_have_is_refused_before_cutting(tmp_path, capsys, name, says):
    """Also with --force: what was there stays."""
    toml = laboratory(tmp_path, "a", "b")
    main([str(toml), "--out", str(tmp_path / "stores")])
    before = store_path(tmp_path / "stores", "source").read_bytes()
    shutil.rmtree(tmp_path / "source")
    toml = laboratory(tmp_path, "a", name)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(toml), "--out", str(tmp_path / "stores"), "--force"])
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and says in printed and "use a plain one" in printed and "micrograph/s" not in printed
    assert "domains.source.images" in printed and len(printed.strip().splitlines()) == 1
    assert [file.read_bytes() for file in (tmp_path / "stores").iterdir()] == [before]


def test_odd_names_are_the_same_everywhere(tmp_path):
    """In the store, its folds, predictions, panels and tables."""
    names = [" a ", "b.", "c%s$x", "d\u2215e", "f\u00a0g", DECOMPOSED, "粒" * 66]
    masks = [*names[:5], COMPOSED, names[6]]
    toml = laboratory(tmp_path, *names, masks=masks, test=[COMPOSED, " a "])
    options, domains = read_domains(toml)
    store = Store(prepare_domain(options, domains["source"], tmp_path / "stores"))
    assert sorted(micrograph.name for micrograph in store.micrographs) == sorted(names)
    assert all(micrograph.labelled for micrograph in store.micrographs)
    assert {store.micrographs[index].name for index in store.test_micrographs()} == {DECOMPOSED, " a "}
    everything = [micrograph.index for micrograph in store.micrographs]
    folder = tmp_path / "score"
    writer = ResultWriter(folder, len(everything), "floor")
    pooled, rows = score(otsu_floor(store, everything), store, everything, on_image=writer)
    writer.finish({}, pooled, rows)
    assert sorted(file.stem for file in (folder / "predictions").iterdir()) == sorted(names)
    with (folder / "images.csv").open(newline="") as file:
        assert sorted(row["name"] for row in csv.DictReader(file)) == sorted(names)


@pytest.mark.parametrize("there", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("typed", [COMPOSED, DECOMPOSED])
def test_folders_and_masks_are_found_in_either_form(tmp_path, there, typed):
    """In a path, in a pattern, in the names of a test set with their ending, and in a table."""
    laboratory(tmp_path, "a", f"{there}1", "c")
    os.rename(tmp_path / "source", tmp_path / there)
    entry = annotated("source", test=[f"{typed}1.png"])
    for images in (f"{typed}/images", f"{typed}/images/*", f"{typed}/im*/{typed}*", f"**/images/{typed}1.png"):
        more = {"images": images, "masks": f"{typed}/masks/{typed}*", "micrographs": "table.csv"}
        (tmp_path / "table.csv").write_text(f"name,mask\n{typed}1,{typed}1.png\n")
        (tmp_path / "domains.toml").write_text(domains_toml(source=entry | more))
        _, domains = read_domains(tmp_path / "domains.toml")
        (found,) = [one for one in domains["source"].micrographs if one.test]
        assert found.image == tmp_path / there / "images" / f"{there}1.png"
        assert found.mask == tmp_path / there / "masks" / f"{there}1.png"


def test_folders_are_named_in_either_form(tmp_path):
    """Of several folders those that wildcards stand for are in the names, and no others."""
    for folder in ("x", "y"):
        draw(tmp_path / "n" / folder / DECOMPOSED, 2, seed=1, contrast=1.0)
    for typed in (COMPOSED, DECOMPOSED):
        entry = annotated("source") | {"images": f"n/*/{typed}/images/*", "masks": f"n/*/{typed}/masks/*"}
        (tmp_path / "domains.toml").write_text(domains_toml(source=entry))
        _, domains = read_domains(tmp_path / "domains.toml")
        found = {one.name: one.mask for one in domains["source"].micrographs}
        assert list(found) == ["x_m0", "x_m1", "y_m0", "y_m1"] and all(found.values())


def test_links_to_folders_give_each_file_once(tmp_path):
    toml = laboratory(tmp_path, "a", "b")
    images = tmp_path / "source" / "images"
    for link in ("again", "once more"):
        (images / link).symlink_to(images)
    (images / "loop.png").symlink_to(images / "loop.png")
    (images / "c.png").symlink_to(images / "a.png")
    shutil.copy(tmp_path / "source" / "masks" / "a.png", tmp_path / "source" / "masks" / "c.png")
    toml.write_text(domains_toml(source=annotated("source", folds=2, images="source/images/**/*.png")))
    status, printed = call(f"prepare {toml} --out {tmp_path / 'stores'}")
    assert status == 2 and "loop.png: cannot be read" in printed
    (images / "loop.png").unlink()
    (images / "old").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(images / "a.png", tmp_path / "elsewhere" / "d.png")
    _, domains = read_domains(toml)
    assert [one.name for one in domains["source"].micrographs] == ["a", "b", "c", "d"], "a file's own link has its name"


def test_two_forms_of_one_name_are_refused_and_two_cases_warned_of(tmp_path, capsys):
    toml = laboratory(tmp_path, COMPOSED, DECOMPOSED)
    with pytest.raises(InputError, match=r"\.png has the same name, written with other Unicode characters; rename"):
        read_domains(toml)
    shutil.rmtree(tmp_path / "source")
    read_domains(laboratory(tmp_path, "M1", "m1"))
    assert "warning: " in (said := capsys.readouterr().err) and "'M1' and 'm1' differ in case only" in said


def test_folds_are_the_same_for_each_unicode_form():
    names = [f"{letter}{number}" for letter in "aäoöuüz" for number in range(3)]
    forms = [[unicodedata.normalize(form, name) for name in names] for form in ("NFC", "NFD")]
    composed, other = (split_in_folds(of_form, 4, seed=2) for of_form in forms)
    assert sorted(forms[0]) != [unicodedata.normalize("NFC", name) for name in sorted(forms[1])]
    assert [composed[name] for name in forms[0]] == [other[name] for name in forms[1]]


def test_every_one_of_many_fields_has_its_name_and_its_prediction(tmp_path):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0, size=(768, 780))
    text = domains_toml(
        {"reference": "source", "scale": 1.0, "tile": 64, "overlap": 0, "field_of_view": [64, 64]},
        source=annotated("source", test=["m0"]),
    )
    (tmp_path / "domains.toml").write_text(text)
    options, domains = read_domains(tmp_path / "domains.toml")
    store = Store(prepare_domain(options, domains["source"], tmp_path / "stores"))
    names = [store.micrographs[index].name for index in store.test_micrographs()]
    assert len(set(names)) == 144 and {"m0_0111", "m0_1101"} < set(names)
    writer = ResultWriter(tmp_path / "score", len(names), "floor")
    _, rows = score(otsu_floor(store, []), store, store.test_micrographs(), on_image=writer)
    assert len(rows) == len(list((tmp_path / "score" / "predictions").iterdir())) == 144


def test_a_field_that_has_another_micrographs_name_is_refused(tmp_path):
    """Up to ten fields a side have names of two digits, as ever."""
    draw(tmp_path / "source", 2, seed=1, contrast=1.0, size=(64, 130))
    for part in ("images", "masks"):
        file = tmp_path / "source" / part / "m0_01.png"
        cv2.imwrite(str(file), cv2.imread(str(file.with_name("m1.png")), cv2.IMREAD_GRAYSCALE)[:, :64])
        file.with_name("m1.png").unlink()
    text = domains_toml(
        {"reference": "source", "scale": 1.0, "tile": 64, "overlap": 0, "field_of_view": [64, 64]},
        source=annotated("source"),
    )
    (tmp_path / "domains.toml").write_text(text)
    options, domains = read_domains(tmp_path / "domains.toml")
    with pytest.raises(InputError, match=r"m0_01\.png: its field of view m0_01 is another's name too; rename"):
        prepare_domain(options, domains["source"], tmp_path / "stores")
    assert not list((tmp_path / "stores").iterdir())


def test_a_folder_to_segment_may_have_any_names(supervised, tmp_path, monkeypatch):
    """What is no text is refused by name, before it is segmented; its neighbours are, and other files are counted."""
    images = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Gef\xfcge"))
    images.mkdir()
    good = [" a ", "粒" * 83, DECOMPOSED, COMPOSED]
    for name in (*good, "a\nb", b"\xe4"):
        cv2.imwrite(str(tmp_path / "one.png"), np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
        os.rename(tmp_path / "one.png", os.fsencode(images) + b"/" + os.fsencode(name) + b".png")
    (images / "below").mkdir()
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((64, 64), np.uint8))
    (tmp_path / "one.png").rename(images / "below" / "one.png")
    (images / "one.webp").write_bytes(b"RIFF")
    out = tmp_path / "out"
    status, printed = call(f"evaluate {supervised} --images {images} --out {out} --device cpu --pixel-size 50")
    assert status == 2 and "2 of 6 images not segmented" in printed
    assert "not segmented: 1 .webp, 1 folders with images" in printed
    assert r"'a\nb.png' becomes a file name" in printed and r"'\udce4.png' becomes a file name" in printed
    assert sorted(file.stem for file in (out / "masks").iterdir()) == sorted(good)
    with (out / "phase_fractions.csv").open(newline="") as file:
        assert sorted(row["file"] for row in csv.DictReader(file)) == sorted([*(f"{n}.png" for n in good), SPECIMEN])


def test_paths_that_are_no_text_are_printed(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Gef\xfcge"))
    toml = odd / laboratory(tmp_path / "plain", "a", "b").name
    (tmp_path / "plain").rename(odd)
    ended = said_by(command("-m", "data.prepare", toml, "--out", odd / "stores"))
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    (odd / "source" / "images" / "a.png").unlink()
    refused(said_by(command("-m", "data.prepare", toml, "--out", odd / "stores")), "a.png", "no image")
