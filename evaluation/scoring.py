"""Scoring a predictor on labelled micrographs: pooled counts and one row per micrograph."""

import cv2
import numpy as np
from tqdm import tqdm

from evaluation.metrics import Confusion

THRESHOLD = 0.5


def score(predictor, store, micrographs, progress=None, on_image=None):
    """Score a predictor on micrographs of a store, over whole micrographs without their padding (paper 2.2).

    predictor: image uint8 (h, w) -> probability (or mask) (h, w); foreground from 0.5 upwards.
    micrographs: indices of labelled micrographs. progress: text of a progress bar, None for no bar.
    on_image(micrograph, image, label, predicted): called with each result, predicted a bool array (h, w).
    Returns (Confusion pooled over all micrographs, list of dicts with the measures of each micrograph).
    """
    pooled, rows = Confusion(), []
    for m in tqdm(micrographs, desc=progress, unit="image", disable=progress is None):
        image, label = store.image(m), store.mask(m)
        predicted = predictor(image) >= THRESHOLD
        confusion = Confusion.of(predicted, label)
        pooled += confusion
        micrograph = store.micrographs[m]
        height, width = image.shape
        rows.append({"name": micrograph.name, "height": height, "width": width, **measures(confusion)})
        if on_image:
            on_image(micrograph, image, label, predicted)
    return pooled, rows


def measures(confusion):
    """The counts and measures of a Confusion as a flat dict."""
    iou = confusion.iou()
    return {
        "tp": confusion.tp,
        "fp": confusion.fp,
        "fn": confusion.fn,
        "tn": confusion.tn,
        "miou": confusion.miou,
        "iou_background": iou["background"],
        "iou_foreground": iou["foreground"],
        "phase_fraction_predicted": confusion.phase_fraction_predicted,
        "phase_fraction_label": confusion.phase_fraction_label,
    }


def otsu_predictor(image):
    """Mask uint8 (h, w) of what lies above Otsu's grey-level threshold: the floor that a network has to beat.

    Bright is foreground, at the working polarity (bright field already inverted).
    """
    _, mask = cv2.threshold(image, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return mask


def ensemble(predictors):
    """Predictor whose probability is the mean of the predictors' (bagging, paper 4.2)."""

    def predictor(image):
        total = np.zeros(image.shape, np.float32)
        for member in predictors:
            total += member(image)
        return total / len(predictors)

    return predictor
