"""Phase fractions with their uncertainty: intervals that hold, fields that add up, and what is said of them."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import models
from benchmarks.intervals import coverage
from common.errors import InputError
from evaluation.fractions import ACCURACY, FIELD, Fraction, fields_of, of_specimen
from evaluation.members import Member, load_member
from evaluation.segment_folder import SPECIMEN, _refuse_to_overwrite, segment_folder


def test_the_interval_of_normal_fields_holds_the_truth_in_95_of_100_specimens():
    rng = np.random.default_rng(0)
    found = [Fraction.of(rng.normal(0.4, 0.05, 6), [0.4]) for _ in range(4000)]
    held = np.mean([abs(fraction.mean - 0.4) <= fraction.ci95 for fraction in found])
    assert held == pytest.approx(0.95, abs=0.01)


def test_an_interval_with_the_models_holds_what_all_models_miss_alike():
    """The models' errors are draws about the truth, as are the fields: the wider interval must hold 95 %."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(4000):
        fields, errors = rng.normal(0.4, 0.02, 8), rng.normal(0, 0.05, 3)
        one = Fraction.of(fields + errors.mean(), fields.mean() + errors)
        held.append(abs(one.mean - 0.4) <= one.ci95_with_models)
        assert one.ci95_with_models >= one.ci95
    assert np.mean(held) >= 0.95


def test_one_field_or_one_model_says_that_it_does_not_know():
    one = Fraction.of([0.3], [0.3])
    assert one.mean == 0.3 and np.isnan([one.std, one.ci95, one.ci95_with_models, one.relative_accuracy]).all()
    assert one.fields_needed is None
    one = Fraction.of([0.3, 0.4], [0.35])
    assert one.ci95 > 0 and np.isnan(one.std_models) and np.isnan(one.ci95_with_models)
    assert Fraction.of([0.0, 0.0], [0.0]).fields_needed is None, "nothing found: no number of fields is enough"


def test_so_many_fields_as_it_asks_for_are_enough_and_one_less_is_not():
    few = Fraction.of([0.2, 0.3, 0.25, 0.35], [0.275])
    needed = few.fields_needed
    assert few.relative_accuracy > ACCURACY and needed > 4

    def accuracy(count):
        """Of fields that have the same deviation."""
        values = np.resize([-1, 1], count) if count % 2 == 0 else np.r_[np.resize([-1, 1], count - 1), 0]
        values = few.mean + few.std * values / np.std(values, ddof=1)
        return Fraction.of(values, [0]).relative_accuracy

    assert accuracy(needed) <= ACCURACY < accuracy(needed - 1)


def test_fields_cover_a_micrograph_once():
    mask = np.random.default_rng(2).integers(0, 2, (2 * FIELD + 100, 3 * FIELD - 1), np.uint8)
    fields = fields_of(mask)
    assert len(fields) == 2 * 2
    assert np.mean(fields) == pytest.approx(mask.mean(), abs=1e-3)
    assert fields_of(mask[:50, :60]) == [mask[:50, :60].mean()]


def test_images_are_fields_where_there_are_enough_of_them():
    few = [[0.1, 0.2], [0.3, 0.4]]
    fraction, field = of_specimen(few, [[0.15], [0.35]])
    assert (fraction.fields, field) == (4, "512 px")
    fraction, field = of_specimen(few * 3, [[0.15], [0.35]] * 3)
    assert (fraction.fields, field) == (6, "image") and fraction.std == pytest.approx(np.std([0.15, 0.35] * 3, ddof=1))


def segmented(folder: Path, count: int = 1, information_bar: int | None = None) -> list[dict]:
    """Segment folder/lab by networks that have learnt nothing. Returns the rows of the table."""
    members = []
    for seed in range(count):
        models.build("deeplabv2_small")  # moves the generator on: two different networks
        cut = {"tile": 48, "overlap": 8, "scale": 1.0, "reference_pixel_size_nm": 1.0}
        native = {"pixel_size_nm": 1.0, "invert": False, "information_bar": 0}
        members.append(Member(folder / str(seed), "last", models.build("deeplabv2_small").eval(),
                              {"target": None}, cut | {"native": native}, 0))  # fmt: skip
    options = SimpleNamespace(images=folder / "lab", out=folder / "out", pixel_size=None, page=None, invert=None,
                              information_bar=information_bar, images_of=None)  # fmt: skip
    segment_folder(members, options, "cpu")
    with (folder / "out" / "phase_fractions.csv").open() as file:
        return [*csv.DictReader(file)]


def laboratory(folder: Path, count: int) -> list[np.ndarray]:
    """Write micrographs m0.png ... into folder/lab."""
    (folder / "lab").mkdir(exist_ok=True)
    pictures = [np.random.default_rng(number).integers(0, 256, (60, 80), np.uint8) for number in range(count)]
    for number, grey in enumerate(pictures):
        cv2.imwrite(str(folder / "lab" / f"m{number}.png"), grey)
    return pictures


def test_the_table_has_both_spreads_and_a_person_reads_them(tmp_path, capsys):
    laboratory(tmp_path, 6)
    *rows, whole = segmented(tmp_path, 2)
    assert whole["file"] == SPECIMEN and whole["field"] == "image" and int(whole["fields"]) == 6
    of_images = np.array([float(row["phase_fraction"]) for row in rows])
    assert float(whole["phase_fraction"]) == pytest.approx(of_images.mean())
    assert float(whole["std_fields"]) == pytest.approx(of_images.std(ddof=1))
    assert float(whole["std_models"]) > 0 and rows[0]["std_fields"] == "", "one field in a small image"
    assert all(0.5 <= float(row["confidence"]) <= 1 for row in rows)
    printed = capsys.readouterr().out
    assert "95 % confidence, 6 images" in printed and "with the models' spread" in printed


def test_masks_that_somebody_has_drawn_are_not_overwritten(tmp_path):
    """What an earlier segmentation has written is, also after it was stopped."""
    laboratory(tmp_path, 1)
    drawn = tmp_path / "out" / "masks" / "m0.png"
    drawn.parent.mkdir(parents=True)
    drawn.write_bytes(b"by hand")
    with pytest.raises(InputError, match=r"out/masks: has files that are no earlier segmentation.*give another --out"):
        segmented(tmp_path)
    assert drawn.read_bytes() == b"by hand" and not (tmp_path / "out" / "overlays").exists()
    drawn.unlink()
    segmented(tmp_path)
    shutil.rmtree(tmp_path / "out" / "confidence")  # by somebody who needs the space
    segmented(tmp_path)
    for name in ("phase_fractions.csv", "segmentation.json"):
        (tmp_path / "out" / name).unlink()  # as where it was stopped
    segmented(tmp_path)
    assert drawn.exists()
    with pytest.raises(InputError, match="out/masks: has files that are no earlier"):  # labels that are in use
        _refuse_to_overwrite(tmp_path / "out", [drawn.parent], [drawn])


def test_an_image_that_is_there_twice_counts_once(tmp_path, capsys):
    """Under other names and in another format; uniform images are alike and no copies."""
    pictures = laboratory(tmp_path, 3)
    for number, grey in enumerate(pictures):
        for name in (f"m{number}_copy.png", f"m{number} (2).bmp"):
            cv2.imwrite(str(tmp_path / "lab" / name), grey)
    for name in ("black0.png", "black1.png"):
        cv2.imwrite(str(tmp_path / "lab" / name), np.zeros((60, 80), np.uint8))
    *rows, whole = segmented(tmp_path)
    printed = capsys.readouterr()
    assert len(rows) == 11 and int(whole["fields"]) == 5 and "5 images" in printed.out
    counted = [float(row["phase_fraction"]) for row in rows if row["file"][2:] == ".png" or "black" in row["file"]]
    assert float(whole["phase_fraction"]) == pytest.approx(np.mean(counted))
    (said,) = [line for line in printed.err.splitlines() if "pixels of another" in line]
    assert "6 images have the pixels" in said and "black" not in said and "m0 (2).bmp, m0_copy.png" in said


def test_images_of_one_field_are_named(tmp_path, capsys):
    """Saved again as JPEG, of another size and contrast; not the other fields, whatever bar or grating they share."""
    (tmp_path / "lab").mkdir()
    rows, columns = np.mgrid[:200, :260]
    for number in range(4):
        field = cv2.GaussianBlur(np.random.default_rng(number).normal(size=(200, 260)), (0, 0), 3)
        grey = (120 + 300 * field).clip(0, 255).astype(np.uint8)
        cv2.putText(grey, "20 kV 5000x", (5, 195), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 3)
        grating = 120 + 50 * np.sin((rows + number) / 7) * np.sin((columns + number) / 7)
        for name, picture in (("m", grey), ("grating", grating)):
            cv2.imwrite(str(tmp_path / "lab" / f"{name}{number}.png"), picture)
        if number < 2:
            other = cv2.resize(cv2.LUT(grey, (np.arange(256) ** 0.5 * 15).astype(np.uint8)), None, fx=0.8, fy=0.8)
            cv2.imwrite(str(tmp_path / "lab" / f"z{number}.jpg"), other)
    segmented(tmp_path)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "one field" in line]
    assert "m0.png, z0.jpg; m1.png, z1.jpg: look" in said


def test_an_information_bar_that_is_not_cut_off_is_named(tmp_path, capsys):
    """With its rows, also where too few are cut; not where only one image has it, nor once it is cut off."""
    for number, grey in enumerate(laboratory(tmp_path, 3)):
        grey[-18:] = 255
        cv2.putText(grey, f"{number} kV", (5, 55), cv2.FONT_HERSHEY_SIMPLEX, 0.3, 0)
        cv2.imwrite(str(tmp_path / "lab" / f"m{number}.png"), grey)
    said = "the lowest 18 rows of 3 of 3 images look like an information bar"
    for cut, warned in ((None, True), (8, True), (18, False)):
        segmented(tmp_path, information_bar=cut)
        assert (said in capsys.readouterr().err) == warned
    for resin in (None, 0):  # as it was drawn, and above resin, which has no text
        for number, grey in enumerate(laboratory(tmp_path, 2)):
            grey[-18:] = grey[-18:] if resin is None else resin
            cv2.imwrite(str(tmp_path / "lab" / f"m{number}.png"), grey)
        segmented(tmp_path)
        assert "look like an information bar" not in capsys.readouterr().err


def test_the_coverage_benchmark_counts_the_intervals_that_hold(supervised):
    """By their labels and by a model, on two drawn specimens: a wide interval of few fields holds the labels' truth."""
    found = coverage([load_member(supervised, "last", "cpu")], "t2", specimens=2, fields=2, seed=0)
    assert list(found) == ["labels", "models"], "one model has no spread"
    assert all(share in (0.0, 0.5, 1.0) and width > 0 for share, width in found.values())
    assert found["labels"][0] > 0
