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


def true_mious(candidates: Sequence[Candidate], target: Store, device: torch.device | str) -> dict[str, float]:
    """Score candidates by name on a target, whose store is opened with labels, as `true_miou` does."""
    return {one.name: true_miou(one, target, device) for one in candidates}


def true_miou(candidate: Candidate, target: Store, device: torch.device | str) -> float:
    """Score a candidate on the target's labelled micrographs that are held out.

    Where all its members have the same ones, they are scored as the ensemble that they are. Else it is the mean of the
    members' mIoU, each on those of its fold. InputError where there are none, or they were trained on.
    """
    held_out = [target.evaluation_micrographs(member.config["fold"]) for member in candidate.members]
    predictors = [member.predictor(device) for member in candidate.members]
    for member, micrographs in zip(candidate.members, held_out, strict=True):
        if not micrographs:
            raise InputError(f"{target.path}: no labelled micrographs to score on. Leave out --score.")
        refuse_trained_on(member, target, micrographs)
        if has_seen(member, target, micrographs):
            print(f"remark: {member.run} has seen the images that it is scored on: transductive", file=sys.stderr)
    if all(micrographs == held_out[0] for micrographs in held_out):
        predictors, held_out = [scoring.ensemble(predictors)], held_out[:1]
    scored = (
        scoring.score(predictor, target, micrographs, candidate.name)
        for predictor, micrographs in zip(predictors, held_out, strict=True)
    )
    return float(np.mean([pooled.miou for pooled, _ in scored]))
