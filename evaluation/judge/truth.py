"""True scores of candidates: labels of a target are read here, for the record, after everything was decided."""

import sys
from collections.abc import Sequence

import numpy as np
import torch

from common.errors import InputError
from data.store import Store
from evaluation import scoring
from evaluation.judge.choice import Candidate
from evaluation.members import has_seen, refuse_trained_on
from evaluation.scoring import Predictor


def true_mious(candidates: Sequence[Candidate], target: Store, device: torch.device | str) -> dict[str, float]:
    """Score candidates by name on a target, whose store is opened with labels, as `true_miou` does."""
    return {one.name: true_miou(one, target, device) for one in candidates}


def true_miou(candidate: Candidate, target: Store, device: torch.device | str) -> float:
    """Score a candidate on the target's labelled micrographs that are held out.

    Members that have the same ones are scored as the ensemble that they are. Of several such, each on those of its
    fold, it is the mean of their mIoU. InputError where there are none, or they were trained on.
    """
    groups: dict[tuple[int, ...], list[Predictor]] = {}
    for member in candidate.members:
        micrographs = target.evaluation_micrographs(member.config["fold"])
        if not micrographs:
            raise InputError(f"{target.path}: no labelled micrographs to score on. Leave out --score.")
        refuse_trained_on(member, target, micrographs)
        if has_seen(member, target, micrographs):
            print(f"remark: {member.run} has seen the images that it is scored on: transductive", file=sys.stderr)
        groups.setdefault(tuple(micrographs), []).append(member.predictor(device))
    scored = (
        scoring.score(scoring.ensemble(predictors), target, list(micrographs), candidate.name)
        for micrographs, predictors in groups.items()
    )
    return float(np.mean([pooled.miou for pooled, _ in scored]))
