"""The picture before and after adaptation shows what evaluate.py wrote, and refuses what does not belong together."""

import json

import cv2
import numpy as np
import pytest
from conftest import run

from data.store import Store, store_path
from evaluation import before_after
from evaluation.figures import overlay
from evaluation.scoring import ResultWriter, score, score_folder


@pytest.fixture
def scored(tmp_path, stores):
    """Two runs scored on `labelled`: one that finds nothing, one that thresholds the grey levels."""
    store = Store(store_path(stores, "labelled"))
    micrographs = store.evaluation_micrographs(0)
    runs = {
        "before": lambda image: np.stack([image >= 0, image < 0]),
        "after": lambda image: np.stack([image <= 120, image > 120]),
    }
    for name, predictor in runs.items():
        writer = ResultWriter(score_folder(tmp_path / name, "labelled", "last", "plain"), len(micrographs), name)
        pooled, rows = score(predictor, store, micrographs, on_image=writer)
        facts = {"experiment": name, "domain": "labelled", "variant": "plain", "checkpoint": "last"}
        facts |= {"images": len(rows), "store_fingerprint": store.fingerprint}
        writer.finish(facts, pooled, rows)
    return tmp_path / "before", tmp_path / "after", store


def test_the_picture_shows_both_predictions_and_the_scores(scored, stores, monkeypatch):
    before, after, store = scored
    drawn = {}
    grid = before_after.grid
    monkeypatch.setattr(before_after, "grid", lambda *args, **kw: drawn.update(rows=args[1]) or grid(*args, **kw))
    picture = before_after.picture(before, after, store)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    (name, image), _, *predictions = drawn["rows"][0]
    assert name == "test micrograph m4" and np.array_equal(image, store.image(4))
    for run_folder, (text, shown) in zip((before, after), predictions, strict=True):
        folder = score_folder(run_folder, "labelled", "last", "plain")
        miou = 100 * json.loads((folder / "score.json").read_text())["miou"]
        assert f"mIoU {miou:.1f} %\nof 2 test micrographs" in text
        found = cv2.imread(str(folder / "predictions/m4.png"), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(shown, overlay(image, found // 255))

    out = after / "pictures/both.jpg"
    run("-m", "evaluation.before_after", before, after, "--data", stores, "--domain", "labelled", "--out", out)
    assert cv2.imread(str(out)).shape == picture.shape


def test_scores_of_other_stores_and_micrographs_without_a_prediction_are_refused(scored):
    before, after, store = scored
    with pytest.raises(before_after.InputError, match="no prediction of m0 in both"):
        before_after.picture(before, after, store, "m0")
    path = score_folder(after, "labelled", "last", "plain") / "score.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store_fingerprint": "another"}))
    with pytest.raises(before_after.InputError, match="no score on"):
        before_after.picture(before, after, store)
