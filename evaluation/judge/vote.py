"""The vote of many predictions of the same micrographs: they are wrong in different ways, and right in the same one."""

from collections.abc import Sequence

import numpy as np

from common.limits import IGNORED
from evaluation.metrics import Confusion


def compared(ballots: Sequence[Sequence[np.ndarray]], weights: Sequence[float], phases: int) -> list[list[Confusion]]:
    """Compare each voter with the weighted vote of all others, pixel by pixel; by voter and window.

    ballots: by voter and window, class indices uint8 (models, h, w), IGNORED where a voter saw nothing. The models of a
    voter share its weight.
    """
    found: list[list[Confusion]] = [[] for _ in ballots]
    for of_window in zip(*ballots, strict=True):
        shares = np.array([[np.mean(ballot == phase, axis=0) for phase in range(phases)] for ballot in of_window])
        shares *= np.asarray(weights)[:, None, None, None]
        together = shares.sum(0)
        for voter, ballot in enumerate(of_window):
            vote = (together - shares[voter]).argmax(0).astype(np.uint8)
            confusion = Confusion.none(phases)
            for of_model in ballot:
                confusion += Confusion.of(of_model, np.where(of_model == IGNORED, IGNORED, vote), phases)
            found[voter].append(confusion)
    return found


def dissent(windows: Sequence[Confusion]) -> float:
    """How far a voter is from the vote: 1 - mIoU, pooled over windows."""
    return 1 - sum(windows[1:], windows[0]).miou
