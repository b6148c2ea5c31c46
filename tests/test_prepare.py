"""data.prepare from image folders to stores: what it makes, what it refuses, and what survives a crash."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import cv2
import numpy as np
import pytest
import tifffile
from bad_input import call, png, png_chunk
from conftest import ROOT, draw, run
from short_runs import uda_arguments

from common.errors import InputError
from common.parallel import ahead
from data import prepare
from data.domains import read_domains, split_in_folds
from data.images import read_image
from data.levels import grey_levels, matched
from data.prepare import prepare_domain, read_native
from data.store import Store, store_path
from evaluation.members import load_member
from models import classes, set_domain

_OPTIONS = '[options]\nreference = "source"\nscale = 1.0\ntile = 48\noverlap = 8\n'
_SOURCE = """
[domains.source]
images = "source/images"
masks = "source/masks"
foreground = [255]
pixel_size_nm = 50
"""
_OVERLAY = 'mask_suffix = "_mask"\nforeground = ["#0000ff", "#ff0000"]\nbackground = "rest"'
_REAL = ROOT.parent / "shared" / "data"


def _write_toml(folder, text=_OPTIONS + _SOURCE):
    (folder / "domains.toml").write_text(text)
    return folder / "domains.toml"


def _prepare(toml, *arguments, ok=True):
    return run("-m", "data.prepare", toml, "--out", toml.parent / "stores", *arguments, ok=ok)


@pytest.fixture
def laboratory(tmp_path):
    """Folder with four annotated micrographs in source/ and a domains.toml."""
    draw(tmp_path / "source", 4, seed=3, contrast=1.0)
    _write_toml(tmp_path)
    return tmp_path


def test_bar_polarity_pixel_size_and_field_of_view(tmp_path):
    """Light-optical micrographs come out like the electron-optical ones (paper Section 2.2)."""
    draw(tmp_path / "source", 2, seed=1, contrast=1.0, size=(72, 100))
    draw(tmp_path / "lom", 2, seed=2, contrast=1.0, size=(90, 100))
    text = _OPTIONS.replace("scale = 1.0", "scale = 0.5\nfield_of_view = [100, 72]") + _SOURCE
    lom = _SOURCE.replace("source", "lom").replace("50", "100")
    toml = _write_toml(tmp_path, text + lom + 'information_bar = 10\ninvert = true\ntest = ["m1"]\n')
    options, domains = read_domains(toml)
    for name in domains:
        prepare_domain(options, domains[name], tmp_path / "stores")
    source, lom = (Store(store_path(tmp_path / "stores", name)) for name in ("source", "lom"))
    assert {(m.height, m.width) for m in [*source.micrographs, *lom.micrographs]} == {(36, 50)}
    assert [m.parent for m in lom.micrographs] == ["m0"] * 4 + ["m1"] * 4
    assert [m.test for m in lom.micrographs] == [False] * 4 + [True] * 4
    native = cv2.imread(str(tmp_path / "lom" / "images" / "m0.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(lom.image(0), 255 - native[4:40, :50])
    mask = cv2.imread(str(tmp_path / "lom" / "masks" / "m0.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(lom.mask(0), mask[4:40, :50] // 255)


def test_a_domain_takes_the_grey_levels_of_another(tmp_path):
    draw(tmp_path / "source", 3, seed=1, contrast=1.0)
    draw(tmp_path / "lom", 2, seed=2, contrast=0.3)
    lom = _SOURCE.replace("source", "lom")
    toml = _write_toml(tmp_path, _OPTIONS + _SOURCE + "invert = true\n" + lom + 'match = "source"\n')
    _prepare(toml)
    source, lom = (Store(store_path(tmp_path / "stores", name)) for name in ("source", "lom"))
    levels = grey_levels(source.image(micrograph.index) for micrograph in source.micrographs)
    assert source.image(0).mean() < 140 and "levels" not in source.metadata["parameters"]
    for number in range(2):
        native = cv2.imread(str(tmp_path / "lom" / "images" / f"m{number}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(lom.image(number), matched(native, levels))
    assert "lom: " in (said := _prepare(toml).stdout) and said.count("up to date") == 2
    toml.write_text(toml.read_text().replace('match = "source"\n', ""))
    assert "differs in match" in _prepare(toml, ok=False).stderr


def test_new_micrographs_get_the_grey_levels_too(tmp_path):
    """What a store was given, evaluate.py --images gives to others of their kind."""
    draw(tmp_path / "source", 4, seed=1, contrast=1.0)
    draw(tmp_path / "lom", 2, seed=2, contrast=0.3)
    lom = _SOURCE.replace("source", "lom") + 'match = "source"\n'
    _prepare(_write_toml(tmp_path, _OPTIONS + _SOURCE + "folds = 2\n" + lom))
    adaptation = uda_arguments(tmp_path / "stores", tmp_path / "run", "--steps", 1, target="lom")
    run("train_uda.py", *adaptation)
    images = ("--images", tmp_path / "lom" / "images", "--out", tmp_path / "out")
    said = run("evaluate.py", tmp_path / "run", *images).stdout
    assert "given the grey levels of source" in said
    member, store = load_member(tmp_path / "run", "last", "cpu"), Store(store_path(tmp_path / "stores", "lom"))
    set_domain(member.model, "target")
    found = classes(member.predictor("cpu")(store.image(0)))
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "m0.png"), cv2.IMREAD_GRAYSCALE)
    assert np.mean(mask // 255 == found) > 0.99


@pytest.mark.parametrize("name", ["lom", "sauce", "chain"])
def test_grey_levels_of_no_other_domain_are_refused(tmp_path, name):
    for folder in ("source", "lom", "chain"):
        draw(tmp_path / folder, 2, seed=1, contrast=1.0)
    chain = _SOURCE.replace("source", "chain") + 'match = "source"\n'
    toml = _write_toml(tmp_path, _OPTIONS + _SOURCE + _SOURCE.replace("source", "lom") + f'match = "{name}"\n' + chain)
    with pytest.raises(InputError, match=f"domains.lom.match = '{name}'.*the name of another domain"):
        read_domains(toml)


def test_folds_are_balanced_and_repeatable():
    names = [f"m{index}" for index in range(28)]
    folds = split_in_folds(names, 5, seed=1)
    assert folds == split_in_folds(reversed(names), 5, seed=1) != split_in_folds(names, 5, seed=2)
    assert sorted(np.bincount(list(folds.values()))) == [5, 5, 6, 6, 6]


def test_masks_may_cover_a_part_and_lie_beside_the_images(laboratory):
    images = laboratory / "source" / "images"
    for name in ("m0", "m2"):
        shutil.copy(laboratory / "source" / "masks" / f"{name}.png", images / f"{name}_mask.png")
    text = (_OPTIONS + _SOURCE).replace("source/masks", "source/images") + 'mask_suffix = "_mask"\n'
    options, domains = read_domains(_write_toml(laboratory, text))
    store = Store(prepare_domain(options, domains["source"], laboratory / "stores"))
    assert [m.labelled for m in store.micrographs] == [True, False, True, False]
    assert len(store.training_tiles(None, labelled=True)) * 2 == len(store.training_tiles(None, labelled=False))


def test_same_store_is_kept_and_another_is_replaced_only_on_demand(laboratory):
    toml = laboratory / "domains.toml"
    _prepare(toml)
    store = store_path(laboratory / "stores", "source")
    before = store.read_bytes()
    assert "up to date" in _prepare(toml, "--force").stdout
    _write_toml(laboratory, _OPTIONS.replace("48", "32") + _SOURCE)
    refused = _prepare(toml, ok=False)
    assert refused.returncode == 2 and "differs in tile" in refused.stderr and "--force" in refused.stderr
    assert store.read_bytes() == before
    _prepare(toml, "--force")
    assert Store(store).tile == 32


def test_the_store_is_the_same_for_any_number_of_workers(laboratory):
    toml = laboratory / "domains.toml"
    stores = []
    for workers in (1, 4, 9):
        run("-m", "data.prepare", toml, "--out", laboratory / str(workers), "--workers", workers)
        stores.append(store_path(laboratory / str(workers), "source").read_bytes())
    assert stores[0] == stores[1] == stores[2]


def test_the_first_bad_file_is_named_by_any_number_of_workers(laboratory):
    for name in ("m1", "m2", "m3"):
        (laboratory / "source" / "images" / f"{name}.png").write_bytes(b"")
    said = {_prepare(laboratory / "domains.toml", "--workers", n, ok=False).stderr.splitlines()[-1] for n in (1, 4)}
    assert len(said) == 1 and "m1.png: is empty" in said.pop()
    assert not list(laboratory.glob("stores/*"))


def test_as_many_micrographs_as_workers_are_read_at_once(laboratory, monkeypatch):
    together = threading.Barrier(4)

    def read(*arguments, **more):
        together.wait(patience)
        return read_native(*arguments, **more)

    monkeypatch.setattr(prepare, "read_native", read)
    options, domains = read_domains(laboratory / "domains.toml")
    patience = 30
    prepare_domain(options, domains["source"], laboratory / "stores", workers=4)
    patience = 0.5
    with pytest.raises(threading.BrokenBarrierError):
        prepare_domain(options, domains["source"], laboratory / "others", workers=3)


def test_an_information_bar_that_is_not_cut_off_is_named(laboratory):
    """With its rows in the file; of one micrograph only where too few are cut off; not in no field of view."""
    for number in range(4):
        path = str(laboratory / "source" / "images" / f"m{number}.png")
        grey = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        grey[-18:] = 0
        cv2.putText(grey, f"{number} kV", (5, 95), cv2.FONT_HERSHEY_SIMPLEX, 0.3, 255)
        cv2.imwrite(path, grey)
        if number in (0, 3):
            which = " (m0)" if number == 0 else ""
            named = f"source: the lowest 18 rows of {number + 1} of 4 micrographs{which} look like an information bar"
            for text, warned in (
                (_OPTIONS.replace("1.0", "0.4") + _SOURCE, number == 3),
                (_OPTIONS + _SOURCE + "information_bar = 8", True),
                (_OPTIONS + _SOURCE + "information_bar = 18", False),
                (_OPTIONS + "field_of_view = [90, 64]" + _SOURCE, False),
            ):
                said = call(f"prepare {_write_toml(laboratory, text)} --out {laboratory / 'stores'} --force")[1]
                assert (named in said) == ("information bar, and" in said) == warned


def test_information_bars_of_two_heights_are_named(laboratory):
    for number, rows in enumerate((18, 18, 30, 30)):
        path = str(laboratory / "source" / "images" / f"m{number}.png")
        grey = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        grey[-rows:] = 0
        for line in (95, 80)[: 1 + (rows > 18)]:
            cv2.putText(grey, f"{number} kV", (5, line), cv2.FONT_HERSHEY_SIMPLEX, 0.3, 255)
        cv2.imwrite(path, grey)
    for bar, named in ((0, "18 to 30 rows of 4 of 4 micrographs"), (18, "30 rows of 2 of 4 micrographs (m2, m3)")):
        toml = _write_toml(laboratory, _OPTIONS + _SOURCE + f"information_bar = {bar}")
        said = call(f"prepare {toml} --out {laboratory / 'stores'} --force")[1]
        assert f"the lowest {named} look like" in said and "the rows of each in a table (`micrographs`)" in said


def test_a_picture_that_is_nearly_black_is_named_once(laboratory):
    """As 12 bit in floats of 16; what 16-bit samples are told of already is in test_depth.py."""
    images = laboratory / "source" / "images"
    for number in (1, 2):
        grey = cv2.imread(str(images / f"m{number}.png"), cv2.IMREAD_GRAYSCALE)
        (images / f"m{number}.png").unlink()
        tifffile.imwrite(images / f"m{number}.tif", grey.astype(np.float32) * 16 / 65535)
    said = call(f"prepare {laboratory / 'domains.toml'} --out {laboratory / 'stores'}")[1]
    assert said.count("nearly black") == 1 and "m1.tif (and 1 other files): nearly black, no pixel" in said


@pytest.mark.parametrize("workers", [1, 3])
def test_work_ahead_is_in_order_and_bounded(workers):
    begun = []

    def slowest_first(item):
        begun.append(item)
        time.sleep(0.02 * (item % 3 == 0))
        return item

    done = []
    for future in ahead(slowest_first, range(12), workers):
        done.append(future.result())
        time.sleep(0.005)
        assert len(begun) <= len(done) + workers
    assert done == list(range(12))


def test_work_ahead_ends_with_whoever_asked_for_it():
    begun = []
    with closing(ahead(begun.append, range(100), 2)) as futures:
        next(futures)
    assert len(begun) <= 3


def test_the_benchmark_compares_numbers_of_workers(tmp_path):
    options = ("--sides", 100, "--micrographs", 2, "--rgb", "--compression", "lzw", "--workers", 2, "--repeats", 1)
    run("-m", "benchmarks.prepare", *options, "--json", tmp_path / "found.json")
    one, two = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (one["workers"], two["workers"]) == (1, 2) and one["resident, GB"]["least"] > 0
    assert two["times one worker"]["least"] > 0 and one["times one worker"] is None


def test_a_killed_prepare_leaves_no_store_and_the_next_succeeds(tmp_path):
    draw(tmp_path / "source", 1, seed=3, contrast=1.0, size=(600, 600))
    for folder in ("images", "masks"):
        for copy in range(1, 20):
            shutil.copy(tmp_path / "source" / folder / "m0.png", tmp_path / "source" / folder / f"m{copy}.png")
    toml, folder = _write_toml(tmp_path), tmp_path / "stores"
    command = [sys.executable, "-m", "data.prepare", str(toml), "--out", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (partial := list(folder.glob(".source.h5.partial-*"))):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not partial[0].stat().st_size:  # killed before it wrote a byte
        os.utime(partial[0], (time.time() - 100,) * 2)
    assert partial[0].exists() and not store_path(folder, "source").exists()
    with pytest.raises(InputError, match="half-written"):
        Store(partial[0])
    _prepare(toml)
    assert [file.name for file in folder.iterdir()] == ["source.h5"]
    run("-m", "data.verify", folder)


def test_a_full_disk_is_an_error_and_loses_nothing(laboratory):
    toml, store = laboratory / "domains.toml", store_path(laboratory / "stores", "source")
    _prepare(toml)
    before = store.read_bytes()
    _write_toml(laboratory, _OPTIONS.replace("48", "32") + _SOURCE)
    result = subprocess.run(
        [sys.executable, "-m", "data.prepare", str(toml), "--out", str(store.parent), "--force"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_080_000, 1_080_000)),
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert str(store) in result.stderr and "Traceback" not in result.stderr
    assert store.read_bytes() == before and list(store.parent.iterdir()) == [store]


def _truncate(folder):
    image = folder / "source" / "images" / "m1.png"
    image.unlink()
    tifffile.imwrite(image.with_suffix(".tif"), np.zeros((100, 90), np.uint8))
    image.with_suffix(".tif").write_bytes(image.with_suffix(".tif").read_bytes()[:500])
    return "m1.tif"


def _nan(folder):
    (folder / "source" / "images" / "m1.png").unlink()
    tifffile.imwrite(folder / "source" / "images" / "m1.tif", np.full((100, 90), np.nan, np.float32))
    return "m1.tif: holds NaN"


def _mask_of_another_size(folder):
    cv2.imwrite(str(folder / "source" / "masks" / "m2.png"), np.zeros((50, 90), np.uint8))
    return "m2.png: 90 x 50 px"


def _unknown_grey(folder):
    cv2.imwrite(str(folder / "source" / "masks" / "m2.png"), np.full((100, 90), 77, np.uint8))
    return "m2.png: mask value 77 is neither"


def _orphan_mask(folder):
    (folder / "source" / "images" / "m3.png").unlink()
    return "m3.png"


def _empty_folder(folder):
    shutil.rmtree(folder / "source")
    (folder / "source" / "images").mkdir(parents=True)
    _write_toml(folder, _OPTIONS + '[domains.source]\nimages = "source/images"\npixel_size_nm = 50\n')
    return "source/images"


def _duplicate(folder):
    shutil.copy(folder / "source" / "images" / "m0.png", folder / "source" / "images" / "m0.bmp")
    return "m0.png"


@pytest.mark.parametrize(
    "spoil", [_truncate, _nan, _mask_of_another_size, _unknown_grey, _orphan_mask, _empty_folder, _duplicate]
)
def test_bad_folders_end_with_one_line(laboratory, spoil):
    message = spoil(laboratory)
    result = _prepare(laboratory / "domains.toml", ok=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert message in result.stderr.splitlines()[-1] and result.stderr.splitlines()[-1].startswith("error: ")
    assert not list(laboratory.glob("stores/*"))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("tile = 48", "tiles = 48", r"options\.tiles = 48: unknown key"),
    ("tile = 48", "tile = 2.5", r"options\.tile = 2\.5: it must be"),
    ("scale = 1.0", "scale = true", r"options\.scale = True"),
    ("scale = 1.0", "scale = ", "not valid TOML"),
    ("scale = 1.0", "field_of_view = [100]", "field_of_view"),
    ('reference = "source"', "", "lacks the key 'reference'"),
    ('reference = "source"', 'reference = "sauce"', "no such domain"),
    ("pixel_size_nm = 50", "", "lacks the key 'pixel_size_nm'"),
    ("pixel_size_nm = 50", "pixel_size_nm = -1", "pixel_size_nm"),
    ('"source/masks"', '"source/marks"', "no folder"),
    ("foreground = [255]", "", "lacks the key 'foreground'"),
    ("foreground = [255]", 'foreground = ["red"]', "#rrggbb"),
    ("foreground = [255]", "foreground = [0]", "is foreground too"),
    ("foreground = [255]", "foreground = [255]\nfolds = 1", "2 or more"),
    ("foreground = [255]", "foreground = [255]\nfolds = 5", "only 4 annotated"),
    ("foreground = [255]", 'foreground = [255]\ntest = ["m9"]', "no image of this name"),
    ("foreground = [255]", 'foreground = [255]\nmask_suffix = "_x"', "mask_suffix"),
    ('masks = "source/masks"', "", "there are no masks"),
    ("[domains.source]", '[domains."a/b"]', "file name"),
])  # fmt: skip
def test_bad_keys_are_named_with_value_and_remedy(laboratory, old, new, message):
    with pytest.raises(InputError, match=message) as caught:
        read_domains(_write_toml(laboratory, (_OPTIONS + _SOURCE).replace(old, new)))
    assert "domains.toml" in str(caught.value)


@pytest.mark.parametrize(("side", "message"), [(20000, "truncated"), (24000, "more than 1536; crop")])
def test_only_what_no_microscope_makes_is_too_large(tmp_path, side, message):
    """By the header: 20,000 x 20,000 px of RGB are read, as far as they are there."""
    (tmp_path / "wide.png").write_bytes(png(side, side, 2, png_chunk(b"IDAT", b"")))
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "wide.png")


@pytest.mark.skipif(not _REAL.is_dir(), reason=f"real micrographs are not at {_REAL}")
@pytest.mark.parametrize(("folder", "keys", "low", "high"), [
    ("ni_superalloy/source", _OVERLAY, 0.4, 0.65),
    ("ni_superalloy/target", _OVERLAY, 0.4, 0.65),
    ("ebc/source", "foreground = [1, 2]", 0.1, 0.3),
])  # fmt: skip
def test_real_micrographs_have_a_plausible_phase_fraction(tmp_path, folder, keys, low, high):
    domain = (
        f'[domains.source]\nimages = "{_REAL / folder}/images"\nmasks = "{_REAL / folder}/masks"\n'
        f"{keys}\npixel_size_nm = 27.7\n"
    )
    options, domains = read_domains(_write_toml(tmp_path, '[options]\nreference = "source"\n' + domain))
    store = Store(prepare_domain(options, domains["source"], tmp_path))
    assert all(micrograph.labelled for micrograph in store.micrographs)
    fraction = np.mean([store.mask(micrograph.index).mean() for micrograph in store.micrographs])
    assert low < fraction < high
    assert all(store.image(micrograph.index).std() > 5 for micrograph in store.micrographs)


def test_tiles_much_larger_than_the_micrographs_are_warned_of(laboratory):
    assert "mirror them" not in _prepare(_write_toml(laboratory)).stderr
    said = _prepare(_write_toml(laboratory, (_OPTIONS + _SOURCE).replace("tile = 48", "tile = 400")), "--force").stderr
    assert "% of its tiles are beyond the micrographs" in said and "tile = 400" in said
