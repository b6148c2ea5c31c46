"""Three phases take the road of two: from masks of any numbers to scores, pictures, fractions and the judge."""

import csv
import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, domains_toml
from PIL import Image
from short_runs import adapt, differences, metrics, supervised_arguments, uda_here

import evaluate
import models
import train_supervised
from benchmarks.published import PlainHead
from common.errors import InputError
from common.limits import IGNORED
from data import prepare, verify
from data.images import prepare_mask
from data.masks import Values, phase_fractions, read_mask
from data.pictures import palette_of, read_classes
from data.selection_file import read_selection
from data.store import Store, StoreWriter
from evaluation import before_after, intra, selection, tables
from evaluation.floors import bands, otsu_floor
from evaluation.inference import for_inference, predict
from evaluation.judge import judge as judging
from evaluation.metrics import Confusion
from evaluation.scoring import score
from launch.adapt import Launch
from launch.adapt import parse as launch_options
from losses import segmentation_loss
from models.deeplabv2 import DilatedHead
from training import checkpoint, distributed
from training.configuration import parse
from training.health import Health

NAMES = ("matrix", "streaks", "dots")
NUMBERS = {"source": (0, 85, 255), "target": (7, 1, 3)}  # of the phases, in the masks of each domain


def micrograph(seed: int, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw smooth ground, streaks and a few bright dots: image and class indices, uint8 (h, w)."""
    rng = np.random.default_rng(seed)
    mask = (cv2.GaussianBlur(rng.normal(size=(100, 90)), (0, 0), 9) > 0).astype(np.uint8)
    streaks = cv2.GaussianBlur(rng.normal(size=mask.shape), (0, 0), sigmaX=4, sigmaY=0.7)
    image = 100 + contrast * (400 * streaks * mask + 8 * rng.normal(size=mask.shape))
    for row, column in rng.integers(8, 82, (5, 2)):
        cv2.circle(mask, (int(column), int(row)), 5, 2, -1)
    image[mask == 2] += 90 * contrast
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Micrographs of two domains whose masks have numbers of their own, domains.toml and stores."""
    out = tmp_path_factory.mktemp("three")
    for place, (domain, numbers) in enumerate(NUMBERS.items()):
        for kind in ("images", "masks"):
            (out / domain / kind).mkdir(parents=True)
        for k in range(6):
            image, mask = micrograph(10 * place + k, 1 - 0.4 * place)
            cv2.imwrite(str(out / domain / "images" / f"m{k}.png"), image)
            cv2.imwrite(str(out / domain / "masks" / f"m{k}.png"), np.array(numbers, np.uint8)[mask])
    (out / "domains.toml").write_text(toml())
    prepared(out / "domains.toml", out / "stores")
    return out


def toml(classes=NAMES, options=(), **values) -> str:
    """Render domains.toml with these entries of the domains' `values`."""
    entries = {
        domain: {"images": f"{domain}/images", "masks": f"{domain}/masks", "pixel_size_nm": 50} for domain in NUMBERS
    }
    entries["source"] |= {"folds": 3}
    entries["target"] |= {"test": ["m4", "m5"]}
    of = {domain: dict(zip(NAMES, ([n] for n in numbers), strict=True)) for domain, numbers in NUMBERS.items()}
    of["target"]["matrix"] = "rest"
    tables = {}
    for domain, entry in entries.items():
        tables |= {domain: entry | dict(options), f"{domain}.values": values.get(domain, of[domain])}
    return domains_toml(SMALL | {"classes": list(classes)}, **tables)


def prepared(path: Path, out: Path, *more: str) -> None:
    prepare.main([str(path), "--out", str(out), "--yes", "--workers", "1", *more])


def train(stores: Path, folder: Path, *more: object) -> None:
    """Train on the source in this process."""
    arguments = supervised_arguments(stores, folder, "--fold", 0, *more)
    distributed.together(train_supervised.train, SimpleNamespace(**parse("train_supervised", "", arguments)))


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """A run that has learnt the source a little."""
    train(folder / "stores", folder / "trained", "--steps", 60, "--checkpoint-every", 40, "--batch-size", 8)
    return folder / "trained"


def call(program, *arguments: object) -> int:
    """Run a program's main in this process; its exit status."""
    with mock.patch.object(sys, "argv", ["program", *map(str, arguments)]):
        try:
            program()
        except SystemExit as end:
            return end.code or 0
    return 0


def scored(stores: Path, run_folder: Path, domain: str, *more: object) -> dict:
    status = call(evaluate.main, run_folder, "--data", stores, "--domain", domain, "--device", "cpu",
                  "--wandb", "disabled", *more)  # fmt: skip
    assert status == 0
    variant = next((f".{name}" for name in ("otsu", "majority") if f"--{name}" in more), "")
    return json.loads((run_folder / "evaluation" / f"{domain}{variant}" / "score.json").read_text())


def test_a_store_has_the_phases_by_name_whatever_numbers_the_masks_have(folder, capsys):
    for place, domain in enumerate(NUMBERS):
        store = Store(folder / "stores" / f"{domain}.h5")
        assert store.classes == NAMES and store.phases == 3
        for index in range(6):
            truth = micrograph(10 * place + index, 1)[1]
            np.testing.assert_array_equal(store.mask(index), truth)
    verify.main([str(folder / "stores")])
    printed = capsys.readouterr().out
    assert all(f"phase fraction  {name}, training tiles" in printed for name in NAMES) and "warning" not in printed
    assert (folder / "stores" / "contact_sheet.png").exists()
    prepared(folder / "domains.toml", folder / "stores")
    assert capsys.readouterr().out.count("up to date, kept") == 2


def test_a_phase_on_no_mask_is_warned_of_where_it_has_values(folder, tmp_path, capsys):
    for number, listed in enumerate(([3], [9])):
        (folder / "absent.toml").write_text(toml(target={"matrix": "rest", "streaks": [1]} | {"dots": listed}))
        prepared(folder / "absent.toml", tmp_path / str(number), "--domain", "target")
        verify.main([str(tmp_path / str(number))])
        assert ("no mask has dots" in capsys.readouterr().out) == bool(number)
    (folder / "absent.toml").write_text(toml(target={"matrix": "rest", "streaks": [1]}))
    prepared(folder / "absent.toml", tmp_path / "without", "--domain", "target")
    verify.main([str(tmp_path / "without")])
    assert "no mask has" not in capsys.readouterr().out


def test_an_older_version_does_not_take_three_phases_for_two(folder, stores):
    """It reads schema 1 only; two phases have it as ever."""
    schema = {path: json.loads(path.read_bytes()[:512])["schema"] for path in (stores / "source.h5",
              folder / "stores" / "source.h5")}  # fmt: skip
    assert [*schema.values()] == [1, 2]


def test_an_older_version_does_not_take_ignored_pixels_for_a_phase(tmp_path):
    for value, schema in ((1, 1), (IGNORED, 2)):
        mask = np.zeros((64, 64), np.uint8)
        mask[3, 5] = value
        with StoreWriter(tmp_path / "one.h5", 32, 4) as writer:
            writer.add(np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8), name="a", parent="a")
            writer.add(np.zeros((64, 64), np.uint8), mask, name="b", parent="b")
            writer.finish({}, [])
            writer.place()
        assert json.loads((tmp_path / "one.h5").read_bytes()[:512])["schema"] == schema


@pytest.mark.parametrize("classes", ["aa", ["a"], ["a", "b", 3], ["a", "../b", "c"], ["a", "b", "B"]])
def test_a_store_with_other_names_than_data_prepare_writes_is_damaged(folder, tmp_path, classes):
    store = Store(folder / "stores" / "source.h5")
    with StoreWriter(tmp_path / "source.h5", store.tile, store.overlap) as writer:
        writer.add(store.image(0), store.mask(0), name="m0", parent="m0")
        writer.finish(store.metadata["parameters"] | {"classes": classes}, store.metadata["sources"])
        writer.place()
    with pytest.raises(InputError, match=r"damaged tile store.*classes"):
        Store(tmp_path / "source.h5")


BAD = {
    "one name": (toml(classes=["matrix"]), "2 .. 16 different names"),
    "twice": (toml(classes=["matrix", "Matrix", "dots"]), "different names"),
    "path": (toml(classes=["matrix", "a/b", "dots"]), "letters, digits"),
    "unknown": (toml(source={"matrix": [0], "streak": [85]}), "unknown key; known are dots, matrix, streaks"),
    "shared": (toml(source={"matrix": [0], "streaks": [85], "dots": [85]}), "85 is dots too"),
    "two rests": (toml(source={"matrix": "rest", "streaks": [85], "dots": "rest"}), "only one phase is the rest"),
    "nothing": (toml(source={}), "list the values of each phase: matrix, streaks, dots"),
    "no list": (toml(source={"matrix": [0], "streaks": 85}), "source.values.streaks = 85"),
    "foreground": (toml(options={"foreground": [85]}), "there are 3 phases; say in"),
    "ignored": (toml(options={"ignore": [85]}), "85 is ignore too"),
    "unnamed": (toml().replace("classes", "seed").replace('["matrix", "streaks", "dots"]', "0"), "name the phases in"),
    "unlisted": (toml(source={"matrix": [0], "streaks": [85]}), "mask value 255 is of no phase .* list it for a phase"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_meant_is_said(folder, tmp_path, name, capsys):
    text, said = BAD[name]
    path = folder / f"{name.replace(' ', '_')}.toml"
    path.write_text(text)
    with pytest.raises(SystemExit):
        prepared(path, tmp_path / "stores")
    assert re.search(said, capsys.readouterr().err)


def test_outlines_have_the_names_for_labels_and_what_has_none_is_the_first_phase(tmp_path):
    (tmp_path / "a").mkdir()
    square = {"points": [[10, 10], [30, 10], [30, 30], [10, 30]], "shape_type": "polygon"}
    other = {"points": [[20, 20], [40, 20], [40, 40], [20, 40]], "shape_type": "polygon"}
    for k in range(2):
        cv2.imwrite(str(tmp_path / "a" / f"m{k}.png"), np.full((60, 60), 9 + k, np.uint8))
        shapes = [square | {"label": "streaks"}, other | {"label": "dots"}]
        content = {"shapes": shapes, "imageHeight": 60, "imageWidth": 60}
        (tmp_path / "a" / f"m{k}.json").write_text(json.dumps(content))
    entry = {"images": "a/*.png", "masks": "a/*.json", "pixel_size_nm": 1, "folds": 2}
    options = SMALL | {"reference": "a", "classes": list(NAMES)}
    (tmp_path / "domains.toml").write_text(domains_toml(options, a=entry))
    prepared(tmp_path / "domains.toml", tmp_path / "stores")
    mask = Store(tmp_path / "stores" / "a.h5").mask(0)
    assert mask[5, 5] == 0 and mask[15, 15] == 1 and mask[25, 25] == mask[35, 35] == 2
    assert np.bincount(mask.ravel()).tolist() == [60 * 60 - 700, 300, 400]


def test_a_misspelt_label_is_no_phase(tmp_path, capsys):
    """Without `values` a label is a phase's name; the first phase may be outlined too."""
    (tmp_path / "a").mkdir()
    square = {"points": [[10, 10], [30, 10], [30, 30], [10, 30]], "shape_type": "polygon"}
    for k, labels in enumerate(((*NAMES[1:], NAMES[0]), (*NAMES[1:], "dotz"))):
        cv2.imwrite(str(tmp_path / "a" / f"m{k}.png"), np.full((60, 60), 9 + k, np.uint8))
        content = {"shapes": [square | {"label": one} for one in labels], "imageHeight": 60, "imageWidth": 60}
        (tmp_path / "a" / f"m{k}.json").write_text(json.dumps(content))
    entry = {"images": "a/*.png", "masks": "a/*.json", "pixel_size_nm": 1, "folds": 2}
    options = SMALL | {"reference": "a", "classes": list(NAMES)}
    (tmp_path / "domains.toml").write_text(domains_toml(options, a=entry))
    with pytest.raises(SystemExit):
        prepared(tmp_path / "domains.toml", tmp_path / "stores")
    printed = capsys.readouterr().err
    assert "m1.json: image 'm1', label 'dotz' is of no phase (400 px)" in printed and "m0.json" not in printed


@pytest.mark.parametrize("factor", [0.5, 0.31, 1.7])
def test_a_resized_pixel_is_of_the_phase_that_covers_most_of_it(factor):
    mask = micrograph(3, 1)[1]
    mask[:20, :20] = 255
    found = prepare_mask(mask, factor, 4)
    assert set(np.unique(found)) == {0, 1, 2, 255}
    before, after = phase_fractions(mask, 4), phase_fractions(found, 4)
    np.testing.assert_allclose(after, before, atol=0.02)
    two = np.where(mask == 2, 0, mask)
    np.testing.assert_array_equal(prepare_mask(two, 0.5), prepare_mask(two, 0.5, 2))


def test_a_value_of_each_kind_is_a_phase(tmp_path):
    colours = np.array([(255, 0, 0), (0, 255, 0), (90, 90, 90), (0, 0, 255)], np.uint8)
    index = np.random.default_rng(0).integers(0, 4, (20, 30))
    cv2.imwrite(str(tmp_path / "a.png"), colours[index][..., ::-1])
    values = Values(((0, 255, 0),), ((255, 0, 0),), ((0, 0, 255),), more=(None,))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", values), np.array([0, 1, 2, 255])[index])


def test_the_loss_is_the_cross_entropy_of_what_counts():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 12, 12, requires_grad=True)
    mask = torch.randint(0, 3, (2, 1, 8, 8), dtype=torch.uint8)
    mask[0, 0, :3] = 255
    loss = segmentation_loss(logits, mask)
    centre, target = logits[..., 2:10, 2:10], mask[:, 0].long()
    each = [F.cross_entropy(centre[k : k + 1], target[k : k + 1], ignore_index=255) for k in range(2)]
    torch.testing.assert_close(loss, sum(each) / 2)
    weights = torch.tensor([1.0, 2.0, 0.5])[torch.where(mask == 255, 0, mask).long()]
    weighted = segmentation_loss(logits, mask, weights)
    pixels = F.cross_entropy(centre, target, ignore_index=255, reduction="none") * weights[:, 0]
    torch.testing.assert_close(weighted, (pixels[0].sum() / (5 * 8) + pixels[1].mean()) / 2)
    loss.backward()
    assert not logits.grad[0, :, 2:5].any() and logits.grad[0, :, 5:10, 2:10].all()


def test_every_small_network_has_a_channel_for_each_phase_and_folds_for_inference():
    head = DilatedHead(7, outputs=3)
    features = torch.randn(2, 7, 30, 31)
    torch.testing.assert_close(head(features), PlainHead(head)(features), rtol=1e-4, atol=1e-6)
    image = np.random.default_rng(0).integers(0, 256, (70, 60), np.uint8)
    for name in ("deeplabv2_small", "unet_small"):
        model = models.build(name, 4).eval()
        logits = model(torch.from_numpy(image)[None, None])
        assert {level: tuple(value.shape) for level, value in logits.items()} == dict.fromkeys(
            model.levels, (1, 4, 70, 60)
        )
        found = predict(for_inference(model), image, 48, 8)
        assert found.shape == (4, 70, 60) and np.allclose(found.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("model", ["deeplabv2_small", "unet_small"])
def test_a_run_learns_and_goes_on_bit_for_bit(folder, tmp_path, model):
    stores, more = folder / "stores", ("--model", model, "--steps", 8, "--checkpoint-every", 5, "--class-weights",
                                       "balanced", "--rare-class-sampling")  # fmt: skip
    full, stopped = tmp_path / "full", tmp_path / "stopped"
    train(stores, full, *more)
    assert metrics(full)[-2]["loss_seg_main"] < metrics(full)[0]["loss_seg_main"]
    shutil.copytree(full, stopped)
    for name in ("best.pt", "finished.json"):
        (stopped / name).unlink()
    os.replace(stopped / "previous.pt", stopped / "last.pt")
    train(stores, stopped, *more)
    assert differences(full, stopped) == []
    state = checkpoint.load(full)
    assert state["preparation"]["classes"] == list(NAMES)
    assert checkpoint.load_model(full)[0].phases == 3


def test_a_score_is_a_count_by_hand_and_better_than_the_floor(folder, trained):
    for domain, shown in (("source", None), ("target", ["m4", "m5"])):
        found = scored(folder / "stores", trained, domain)
        store = Store(folder / "stores" / f"{domain}.h5")
        model = checkpoint.load_model(trained)[0]
        counts = Confusion.none(3)
        names = [m for m in store.micrographs if m.index in store.evaluation_micrographs(0)]
        assert shown is None or [m.name for m in names] == shown
        for m in names:
            predicted = models.classes(predict(model, store.image(m.index), store.tile, store.overlap))
            counts += Confusion.of(predicted, store.mask(m.index), 3)
            file = trained / "evaluation" / domain / "predictions" / f"{m.name}.png"
            assert np.mean(read_classes(file) == predicted) > 0.999
        assert found["iou"].keys() == set(NAMES) and np.abs(np.array(found["confusion"]) - counts.counts).max() <= 5
        assert found["miou"] == pytest.approx(np.mean([*found["iou"].values()]))
        fractions = [found[f"phase_fraction_label_{name}"] for name in NAMES]
        assert fractions == pytest.approx(phase_fractions(np.stack([store.mask(m.index) for m in names]), 3))
        with (trained / "evaluation" / domain / "images.csv").open() as file:
            rows = [*csv.DictReader(file)]
        assert len(rows) == len(names) and {f"iou_{name}" for name in NAMES} <= rows[0].keys()
        floor = scored(folder / "stores", trained, domain, "--otsu")
        assert domain == "target" or found["miou"] > floor["miou"]
        lowest = scored(folder / "stores", trained, domain, "--majority")
        assert lowest["miou"] == pytest.approx(max(fractions) / 3) and lowest["variant"] == "majority"


def test_the_floor_is_the_best_of_all_thresholds_by_otsus_criterion():
    image = micrograph(5, 1)[0][:40, :40]
    found = bands(image, 3)
    grey = image.astype(float)

    def between(limits):
        parts = [grey[(grey >= low) & (grey < high)] for low, high in zip((0, *limits), (*limits, 256), strict=True)]
        return sum(len(part) * (part.mean() - grey.mean()) ** 2 for part in parts if len(part))

    best = max(((low, high) for low in range(2, 255, 2) for high in range(low, 256, 2)), key=between)
    limits = [int(image[found == band].min()) for band in (1, 2)]
    assert between(limits) >= between(best) - 1e-6


def test_the_floor_takes_the_best_band_for_each_phase(folder):
    store = Store(folder / "stores" / "source.h5")
    chosen = store.evaluation_micrographs(0)
    best = score(otsu_floor(store, chosen), store, chosen)[0].miou
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        other = score(lambda image, order=order: np.eye(3)[:, bands(image, 3)][list(order)], store, chosen)[0].miou
        assert best >= other - 1e-9


def test_a_folder_is_segmented_into_masks_with_a_palette_and_a_fraction_of_each_phase(folder, trained, tmp_path):
    runs = [trained, shutil.copytree(trained, tmp_path / "other")]
    (folder / "target" / "images" / "m0.png").stat()
    out = tmp_path / "out"
    status = call(evaluate.main, *runs, "--ensemble", "--images", folder / "target" / "images", "--out", out,
                  "--information-bar", 10, "--device", "cpu")  # fmt: skip
    assert status == 0
    with (out / "phase_fractions.csv").open() as file:
        *rows, whole = csv.DictReader(file)
    for row in (*rows, whole):
        assert sum(float(row[f"phase_fraction_{name}"]) for name in NAMES) == pytest.approx(1)
        assert all(row[f"ci95_{name}"] for name in NAMES) or row is not whole
    mask = Image.open(out / "masks" / rows[0]["file"])
    index = np.asarray(mask)
    assert mask.mode == "P" and (index[-10:] == 255).all() and set(np.unique(index[:-10])) <= {0, 1, 2}
    assert mask.getpalette()[:9] == [level for colour in palette_of(NAMES).colours for level in colour]
    for phase, name in enumerate(NAMES):
        assert float(rows[0][f"phase_fraction_{name}"]) == pytest.approx((index[:-10] == phase).mean())
    shown = cv2.imread(str(out / "overlays" / rows[0]["file"]))
    assert shown.shape[:2] == index.shape
    # What is written can be read as masks again, by its numbers.
    values = Values((1,), (0,), (255,), more=((2,),))
    np.testing.assert_array_equal(read_mask(out / "masks" / rows[0]["file"], values), index)


def test_tables_pages_and_pictures_of_scores_name_the_phases(folder, trained, tmp_path):
    for name in ("runs/x/fold0", "demo/seed0/supervised/fold0"):
        shutil.copytree(trained, tmp_path / name)
        for domain in ("source", "target"):
            scored(folder / "stores", tmp_path / name, domain)
    assert call(tables.main, tmp_path / "runs", "--out", tmp_path / "tables") == 0
    with (tmp_path / "tables" / "scores.csv").open() as file:
        rows = [*csv.DictReader(file)]
    wanted = {f"{kind}_{name}_mean" for kind in ("iou", "phase_fraction_predicted") for name in NAMES}
    assert wanted <= rows[0].keys() and "iou_foreground_mean" not in rows[0]
    assert float(rows[0]["miou_mean"]) == pytest.approx(np.mean([float(rows[0][f"iou_{name}_mean"]) for name in NAMES]))
    (tmp_path / "demo/seed0/seconds.json").write_text("{}")
    assert call(tables.main, tmp_path / "demo", "--out", tmp_path / "demo", "--demo") == 0
    assert "<th>streaks [%]</th>" in (tmp_path / "demo/report.html").read_text()
    summary = json.loads((tmp_path / "demo/summary.json").read_text())["targets"]["target"]
    assert 0 < summary["label_phase_fraction_dots"] < summary["generalization"]["phase_fraction_matrix"] < 1
    run = tmp_path / "runs/x/fold0"
    picture = ("--data", folder / "stores", "--domain", "target", "--out", tmp_path / "a.png")
    assert call(before_after.main, run, run, *picture) == 0 and cv2.imread(str(tmp_path / "a.png")) is not None


def test_grad_cam_is_of_the_phase_that_is_named(folder, trained, capsys):
    maps = []
    for name in ("streaks", "matrix"):
        scored(folder / "stores", trained, "source", "--gradcam", "--phase", name)
        out = trained / "evaluation" / "source" / f"gradcam.{name}"
        assert json.loads((out / "gradcam.json").read_text())["phase"] == name
        maps.append(np.load(sorted(out.glob("*.npy"))[0]))
    assert not np.array_equal(*maps)
    options = (trained, "--data", folder / "stores", "--domain", "source", "--wandb", "disabled", "--gradcam")
    for more in ((), ("--phase", "x")):
        assert call(evaluate.main, *options, *more) != 0
        assert "there are the phases matrix, streaks, dots" in capsys.readouterr().err


def test_two_processes_adapt_all_phases_as_one_does(folder, trained, tmp_path):
    for name, processes in (("one", 0), ("two", 2)):
        more = ("--source", "source", "--target", "target")
        adapt(folder / "stores", trained, tmp_path / name, *more, processes=processes)
    assert {"target_phase_fraction_matrix", "loss_D_main"} < metrics(tmp_path / "one")[0].keys()
    assert differences(tmp_path / "one", tmp_path / "two", 1e-3) == []
    assert differences(tmp_path / "one", tmp_path / "two") != []


def test_an_adaptation_shows_maps_of_all_phases_and_logs_their_fractions(folder, trained, tmp_path):
    more = ("--source", "source", "--steps", 3, "--batch-size", 2, "--judge-every", 2, "--panels-every", 2)
    for kind in ((), ("--discriminator-patch", 40, "--discriminators-see", "self-information")):
        out = tmp_path / str(len(kind))
        arguments = (*more, "--lambda-entropy-main", 0.01, "--pretraining", trained / "last.pt", *kind)
        uda_here(folder / "stores", out, *arguments, "--target", "target")
        state = checkpoint.load(out)
        first = next(iter(state["discriminators"].values()))
        assert first.shape[1] == 3
        line = metrics(out)[0]
        fractions = [line[f"target_phase_fraction_{name}"] for name in NAMES]
        assert sum(fractions) == pytest.approx(1, abs=1e-5) and "target_phase_fraction" not in line
        assert any("judge_shape" in line for line in metrics(out)) and any((out / "panels").iterdir())
    found = scored(folder / "stores", out, "target")
    assert found["iou"].keys() == set(NAMES)


def test_other_phases_are_refused_by_name_and_order(folder, stores, trained, tmp_path, capsys):
    other = tmp_path / "stores"
    (folder / "other.toml").write_text(toml(classes=("streaks", "matrix", "dots")))
    prepared(folder / "other.toml", other)
    named = "streaks, matrix, dots"
    with pytest.raises(InputError, match=f"has learnt the phases matrix, streaks, dots, and the source has {named}"):
        train(other, tmp_path / "a", "--pretraining", trained / "last.pt")
    with pytest.raises(InputError, match=r"has learnt the phases matrix, streaks, dots.*background, foreground"):
        train(stores, tmp_path / "b", "--pretraining", trained / "last.pt")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(folder / "stores" / "source.h5", mixed)
    shutil.copy(other / "target.h5", mixed)
    with pytest.raises(InputError, match=f"phases {named} here, matrix, streaks, dots there"):
        uda_here(mixed, tmp_path / "c", "--source", "source", "--target", "target")
    assert call(evaluate.main, trained, "--data", mixed, "--domain", "target") != 0
    assert f"phases matrix, streaks, dots in the checkpoint, {named} in the store" in capsys.readouterr().err
    with pytest.raises(InputError, match="trained on other stores"):
        train(other, shutil.copytree(trained, tmp_path / "d"), "--steps", 60, "--batch-size", 8)
    assert call(verify.main, mixed) != 0 and "phases" in capsys.readouterr().err


def test_two_named_phases_are_trained_as_ever_and_called_by_their_names(stores, tmp_path):
    """By `values`, or by foreground and background: the same masks, bits and scores."""
    path, text = stores.parent / "named.toml", (stores.parent / "domains.toml").read_text()
    values = "".join(f"[domains.{name}.values]\nferrite = [0]\nbainite = [255]\n" for name in ("source", "labelled"))
    named = text.replace("[options]", '[options]\nclasses = ["ferrite", "bainite"]')
    folders = []
    for content in (text, named, named.replace("foreground = [255]\n", "") + values):
        path.write_text(content)
        folders.append(tmp_path / str(len(folders)))
        prepared(path, folders[-1])
        train(folders[-1], folders[-1] / "run", "--steps", 3, "--validate-every", 3)
        scored(folders[-1], folders[-1] / "run", "labelled")
    plain, *others = [checkpoint.load(folder / "run") for folder in folders]
    before, *after = [json.loads((f / "run/evaluation/labelled/score.json").read_text()) for f in folders]
    for state, score_now, folder in zip(others, after, folders[1:], strict=True):
        assert all(torch.equal(value, state["model"][key]) for key, value in plain["model"].items())
        assert list(score_now["iou"]) == ["ferrite", "bainite"]
        assert [*score_now["iou"].values()] == [*before["iou"].values()] and score_now["tp"] == before["tp"]
        assert "classes" not in plain["preparation"] and state["preparation"]["classes"] == ["ferrite", "bainite"]
        assert json.loads((folder / "source.h5").read_bytes()[:512])["schema"] == 1


def test_a_collapse_to_one_of_many_phases_is_said_and_a_rare_phase_is_none():
    options = {f"lambda_{kind}_{level}": 0.1 for kind in ("adv", "entropy") for level in ("main", "aux")}
    health = Health(SimpleNamespace(gan="vanilla", lambda_adv_feature=0, **options), ("main", "aux"))
    rare = {"target_phase_fraction_matrix": 0.6, "target_phase_fraction_streaks": 0.39}
    rare |= {"target_phase_fraction_dots": 0.01}
    assert not [one for _ in range(40) for one in health.observe(rare)]
    said = [one for _ in range(60) for one in health.observe(dict.fromkeys(rare, 0.0) | {next(iter(rare)): 1.0})]
    assert len(said) == 1 and "phase fraction of matrix on the target is" in said[0] and "Lower" in said[0]


def test_tiles_are_selected_by_a_named_phase_and_a_target_is_divided(folder, trained, tmp_path, capsys):
    adapted = tmp_path / "adapted"
    uda_here(folder / "stores", adapted, "--source", "source", "--target", "target", "--steps", 1, "--pretraining",
             trained / "last.pt", "--batch-size", 2)  # fmt: skip
    common = (trained, "--data", folder / "stores", "--domain", "target", "--tiles", 6, "--device", "cpu")
    assert call(selection.main, *common, "--mean", 0.5, "--out", tmp_path / "s.json") != 0
    assert "--phase is missing" in capsys.readouterr().err
    chosen = {}
    for name in ("matrix", "streaks"):
        out = tmp_path / f"{name}.json"
        assert call(selection.main, *common, "--mean", 0.45, "--phase", name, "--out", out) == 0
        content = json.loads(out.read_text())
        assert content["made_by"]["phase"] == name
        assert np.mean([*content["tile_phase_fraction"].values()]) == pytest.approx(0.45, abs=0.021)
        chosen[name] = content["tiles"]
        assert len(read_selection(out, Store(folder / "stores" / "target.h5", labels=False)).tiles) == 6
    assert chosen["matrix"] != chosen["streaks"]
    assert call(intra.main, adapted, "--data", folder / "stores", "--device", "cpu") == 0
    easy = Store(adapted / "intra" / "target-easy.h5")
    assert easy.classes == NAMES and verify.check_store(easy) == []


def test_rare_phases_weigh_more_and_their_tiles_come_more_often(folder):
    from data.rare import balanced, phase_pixels, probabilities_of_tiles

    store = Store(folder / "stores" / "source.h5")
    tiles = store.training_tiles(0, labelled=True)
    pixels = phase_pixels(store, tiles)
    frequency = pixels.sum(0) / pixels.sum()
    weights = balanced(pixels)
    np.testing.assert_allclose(weights * np.sqrt(frequency), weights[0] * np.sqrt(frequency[0]))
    assert weights @ frequency == pytest.approx(1)
    probability = probabilities_of_tiles(pixels)
    rare = pixels[:, 2] > 0
    assert probability.sum() == pytest.approx(1) and probability[rare].mean() > 1.5 * probability[~rare].mean()
    assert balanced(pixels * [1, 1, 0])[2] == 0, "a phase that the fold has not"


def test_drawn_micrographs_of_three_phases_are_those_of_two(tmp_path):
    from data.synthetic import micrographs

    for domain, numbers in (("source", (0, 128, 255)), ("t3", (0, 1, 2))):
        (image, two), (same, three) = (micrographs.draw(domain, 0, phases=phases) for phases in (2, 3))
        np.testing.assert_array_equal(image, same)
        assert set(np.unique(three)) == set(numbers)
        assert np.mean((three == numbers[1]) > (two > 0)) < 0.01, "what is bainite was so"
        assert 0.01 < np.mean(three == numbers[2]) < 0.15


def road(domains: Path, out: Path) -> Launch:
    """Take the commands of launch/adapt.sh, the road of make demo, in this process and with few steps."""
    short = ("--steps", 4, "--batch-size", 4, "--workers", 0, "--wandb", "disabled")
    line = [domains, "--source", "source", "--target", "target", "--out", out, "--folds", 1]
    line += ["--always-adapt", "--experiments", "demo.supervised", "demo.uda", "--", *short]
    launch = Launch(launch_options([*map(str, line)]))
    for step in launch.steps():
        for _, *words in step.commands:
            module = words.pop(0) if words[0] != "-m" else words[1]
            words = words[2:] if words[0] == "-m" else words
            assert call(importlib.import_module(module.removesuffix(".py")).main, *words) == 0
    return launch


def test_the_adversary_weighs_less_of_three_phases(folder, tmp_path):
    line = [folder / "domains.toml", "--source", "source", "--target", "target", "--out", tmp_path]
    for submitted, names in ((), ["demo.supervised", "demo.uda.phases"]), (("--submit",), ["S.10", "T3.2"]):
        launch = Launch(launch_options([*map(str, line), *submitted]))
        assert [name for name, _ in launch.trained.values()][:2] == names


def test_the_launcher_goes_from_a_folder_to_a_report_and_reads_no_label_of_the_target(folder, tmp_path, monkeypatch):
    """All phases of the target's masks change their places in the second folder: only the scores differ."""
    monkeypatch.setattr(judging, "DISTURBANCES", 4)
    out = tmp_path / "out"
    launch = road(folder / "domains.toml", out)
    assert checkpoint.load_model(out / "gap" / "fold0.pt")[0].phases == 3
    measured = json.loads((out / "choice" / "scores.json").read_text())
    of_uda = measured[str(out / "uda" / "fold0")]
    assert scored(launch.data, out / "uda" / "fold0", "target")["miou"] == pytest.approx(of_uda)
    page = (out / "report.html").read_text()
    assert all(f"hase fraction of {name}" in page and f"<th>{name} [%]</th>" in page for name in NAMES)

    other = tmp_path / "other"
    for kind in ("source", "target"):
        shutil.copytree(folder / kind, other / kind)
    for path in (other / "target" / "masks").iterdir():
        numbers = dict(zip(NUMBERS["target"], (1, 3, 7), strict=True))
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), np.vectorize(numbers.get)(mask).astype(np.uint8))
    shutil.copy(folder / "domains.toml", other)
    road(other / "domains.toml", tmp_path / "two")
    others = json.loads((tmp_path / "two" / "choice" / "scores.json").read_text())
    assert list(others.values()) != list(measured.values())
    for name in ("gap/gap.json", "gap/gap.html", "choice/choice.json", "segmented/phase_fractions.csv"):
        ours, theirs = ((tmp_path / root / name).read_text() for root in ("out", "two"))
        theirs = theirs.replace(str(tmp_path / "two"), str(out)).replace(str(other), str(folder))
        assert ours == theirs, name
    models_of = [checkpoint.load(tmp_path / root / "uda" / "fold0")["model"] for root in ("out", "two")]
    assert all(torch.equal(models_of[0][key], models_of[1][key]) for key in models_of[0])
