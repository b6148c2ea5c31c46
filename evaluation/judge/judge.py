"""The judge: source-trained models, what they have learnt from, and what is to be expected of them elsewhere.

It never reads a label of a target. What it knows of right and wrong it learns on held-out source micrographs.
"""

import copy
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import models
from common.errors import InputError, make_folder
from common.files import write_file
from common.limits import IGNORED
from data.levels import grey_levels
from data.masks import counted, phase_fractions
from data.store import Store
from evaluation import scoring
from evaluation.inference import Network, for_inference, window_batches
from evaluation.judge.calibration import Alone, Calibration, Expected
from evaluation.judge.criteria import VOTE, Cut, Shapes, criteria
from evaluation.judge.disturbances import Disturbance
from evaluation.judge.remedies import Remedy, remedies
from evaluation.judge.vote import compared, dissent
from evaluation.judge.windows import labelled_part, scaled_places, side_of, windows
from evaluation.members import Member, refuse_trained_on
from evaluation.metrics import Confusion
from evaluation.scoring import spread

WINDOWS = 6  # at least, that a target is judged by
MICROGRAPHS = 64  # of a target that statistics are taken of
SCORED = 4  # held-out source micrographs that a model is scored on
HELD_OUT = 3  # source micrographs, and windows, that are disturbed at once
_PICTURES = 3  # windows that a page shows
DISTURBANCES = 16


@dataclass(frozen=True)
class Look:
    """Predictions of windows of micrographs, as a remedy shows them, by one or several models.

    single: criteria by name, the mean over windows and models, of each micrograph. windows: uint8 (h, w), as the models
    saw them, as many of each micrograph. predictions: by window and model, class indices uint8 (h, w). ballots: the
    same where the windows of the micrographs as they are lie, uint8 (models, h, w) by window.
    """

    single: list[dict[str, float]]
    windows: list[np.ndarray]
    predictions: list[list[np.ndarray]]
    ballots: list[np.ndarray]

    @property
    def criteria(self) -> dict[str, float]:
        """The mean over the micrographs."""
        return _means(self.single)

    def fractions(self, phases: int) -> list[float]:
        """Area fraction of each phase in what the models predict."""
        counts = sum(np.bincount(one.ravel(), minlength=phases) for each in self.predictions for one in each)
        return (counts / counts.sum()).tolist()

    def pictures(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Some windows for a page, spread evenly, with what the first model predicts of them."""
        return [(self.windows[k], self.predictions[k][0]) for k in spread(range(len(self.windows)), _PICTURES)]


class Judge:
    """Judge of models of one source.

    `phases`: how many they tell apart; `adabn`: if they have batch norm; `floor`: mIoU of one phase everywhere;
    `fractions`: float64 (phases, 2), least and greatest area fraction of each phase in a labelled source micrograph.
    """

    def __init__(self, members: Sequence[Member], source: Store, device: torch.device | str = "cpu"):
        """Read what the models have learnt from. source: their store, with labels.

        InputError where a model has no held-out micrographs of it, or they were trained on.
        """
        self.members, self.source, self.device = list(members), source, device
        self.held_out = [source.evaluation_micrographs(member.config["fold"]) for member in self.members]
        for member, micrographs in zip(self.members, self.held_out, strict=True):
            if not micrographs:
                raise InputError(
                    f"{source.path}: no annotated micrographs that {member.run} was not trained on, so there is "
                    "nothing to judge it by. Prepare the source with folds."
                )
            refuse_trained_on(member, source, micrographs)
            models.set_domain(member.model, "source")
        self.networks = [member.model.eval() for member in self.members]
        self.adabn = all(any(isinstance(m, nn.BatchNorm2d) for m in one.modules()) for one in self.networks)
        annotated = [micrograph.index for micrograph in source.micrographs if micrograph.labelled]
        self.levels = grey_levels(counted(source.image(index), source.mask(index)) for index in annotated)
        self.phases = source.phases
        self.cut = tuple(self.members[0].preparation[key] for key in ("tile", "overlap"))
        self.side = side_of(self.cut[0])
        wholes = [source.mask(index) for index in annotated]
        found = np.array([phase_fractions(whole, self.phases) for whole in wholes])
        self.fractions = np.stack([np.nanmin(found, axis=0), np.nanmax(found, axis=0)], axis=1)
        masks = [window for whole in wholes for window in windows(whole[labelled_part(whole, self.side)], 1, self.side)]
        masks = [mask for mask in masks if np.any(mask != IGNORED)]
        if not masks:
            raise InputError(
                f"{source.path}: no window of a mask with a labelled pixel. Label more of its micrographs."
            )
        self.masks = [mask for mask in masks if np.mean(mask != IGNORED) > 0.5] or masks
        self.shapes = Shapes.of(self.masks, self.phases)
        others = np.nanmean([phase_fractions(mask, self.phases)[1:] for mask in self.masks], axis=0)
        self.floor = float(max(*others, 1 - others.sum())) / self.phases
        self._samples: list[tuple[dict[str, float], float, int, bool]] = []

    def look(
        self,
        images: Sequence[np.ndarray],
        remedy: Remedy,
        judged: Sequence[int] | None = None,
        shapes: Shapes | None = None,
        networks: Sequence[nn.Module] | None = None,
        count: int = WINDOWS,
    ) -> Look:
        """Look at the models' predictions of micrographs uint8 (h, w) under a remedy.

        judged, shapes: as of `criteria`; by default all models, and the shapes of all labels. networks: other models
        than the judge's own. count: of windows, as of `windows`.
        """
        seen = self.windows(images, remedy, count)
        if remedy.adabn:
            own = networks or self.networks
            networks = [with_statistics_of(one, seen, self.cut, self.device, remedy.adabn) for one in own]
        segmenting = [for_inference(one) for one in networks] if networks else self._segmenting
        found = [criteria(segmenting, window, shapes or self.shapes, self.cut, self.device, judged) for window in seen]
        each = len(seen) // len(images)
        single = [_means([of for of, _ in found[first : first + each]]) for first in range(0, len(found), each)]
        predictions = [predicted for _, predicted in found]
        where = scaled_places([image.shape for image in images], remedy.scale, each, self.side)
        ballots = [
            np.array([place.unscaled(of_model) for of_model in each])
            for place, each in zip(where, predictions, strict=True)
        ]
        return Look(single, seen, predictions, ballots)

    @cached_property
    def _segmenting(self) -> list[Network]:
        """Give the models as they segment."""
        return [for_inference(one) for one in self.networks]

    @property
    def source_miou(self) -> float:
        """Give the mIoU of held-out source micrographs, up to SCORED of each model, the mean over the models."""
        return float(np.mean([np.nanmean(_iou_of_labelled(of_model)) for of_model in self._on_source]))

    @property
    def source_iou(self) -> list[float]:
        """Give the IoU of each phase on them, of all models together; nan of a phase that no label there has."""
        return _iou_of_labelled(sum(self._on_source, Confusion.none(self.phases)))

    @cached_property
    def _on_source(self) -> list[Confusion]:
        """Score each model on held-out source micrographs."""
        found = []
        for member, held_out in zip(self.members, self.held_out, strict=True):
            predictor, name = member.predictor(self.device), f"{self.source.domain}, {member.run.name}"
            found.append(scoring.score(predictor, self.source, spread(held_out, SCORED), name)[0])
        return found

    def images_of(self, target: Store, member: Member | None = None) -> list[np.ndarray]:
        """Training micrographs of a target, uint8 (h, w), up to MICROGRAPHS of them, spread evenly.

        They are those of a member's fold; without a member, of all members. InputError where there are none.
        """
        folds = {one.config["fold"] for one in ([member] if member else self.members)}
        fold = folds.pop() if len(folds) == 1 else None
        there = set(target.tile_micrograph[target.training_tiles(fold, labelled=False)].tolist())
        if not there:
            raise InputError(
                f"{target.path}: no micrographs outside the test set to judge by. Leave some of them out of `test` in "
                "domains.toml."
            )
        return [target.image(micrograph) for micrograph in spread(sorted(there), MICROGRAPHS)]

    def windows(self, images: Sequence[np.ndarray], remedy: Remedy, count: int = WINDOWS) -> list[np.ndarray]:
        """Windows of micrographs, as a remedy shows them to the network: at least `count`, as many of each."""
        each = -(-count // len(images))
        return [window for image in images for window in windows(remedy.apply(image, self.levels), each, self.side)]

    def calibrate(self, kept: Path | None = None) -> None:
        """Learn what criteria mean, or take that up from the file `kept`, which is written otherwise."""
        known = _read(kept, self._identity()) if kept else None
        if known:
            self._samples = [tuple(sample) for sample in known["samples"]]
            return
        if kept and kept.exists():
            what = "other models, another source or another version of the judge"
            print(f"remark: {kept}: is of {what}, so it is learnt anew", file=sys.stderr)
        self._learn()
        if kept:
            content = {"of": self._identity(), "samples": self._samples}
            make_folder(kept.parent)
            write_file(kept, json.dumps(content) + "\n")

    def _identity(self) -> str:
        """Digest of what is learnt from: the models, their source, and the judge's own code."""
        code = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
        how = f"{DISTURBANCES} {self.side} {code}"
        digest = hashlib.sha256(f"{self.source.fingerprint} {self.held_out} {how}".encode())
        for network in self.networks:
            for value in network.state_dict().values():
                digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _learn(self) -> None:
        """Disturb held-out source micrographs, and compare predictions with the truth.

        Of each disturbance the micrographs are judged under all remedies but scales, each time against the shapes of
        some labels only: other specimens have other shapes too.
        """
        found: list[tuple[int, Look, float]] = []
        for number in tqdm(range(DISTURBANCES), desc="calibration", unit="disturbance"):
            found += [(number, look, miou) for look, miou in self._disturbed(number)]
        known = [(look.criteria, miou) for _, look, miou in found if np.isfinite(miou)]
        if not known:
            raise InputError(
                f"{self.source.path}: no window of a held-out micrograph with a labelled pixel to judge by. Label more "
                "of its micrographs."
            )
        alone = Alone.fit(*zip(*known, strict=True))
        for number in range(DISTURBANCES):
            looks, truth = zip(*((look, miou) for group, look, miou in found if group == number), strict=True)
            voted = zip(self._vote(looks, alone)[0], truth, remedies(self.adabn), strict=True)
            self._samples += [(of, miou, number, remedy.invert) for of, miou, remedy in voted if np.isfinite(miou)]

    def _disturbed(self, number: int) -> list[tuple[Look, float]]:
        """Look at a disturbance under each remedy, with the true mIoU; nan where nothing is labelled."""
        rng = np.random.default_rng([number, 13])
        disturbance = Disturbance.draw(rng) if number else Disturbance(())
        judged = number % len(self.members)
        chosen = spread(self.held_out[judged], HELD_OUT)
        wholes = [(self.source.image(m), self.source.mask(m)) for m in chosen]
        parts = [(image[part], mask[part]) for image, mask in wholes for part in (labelled_part(mask, self.side),)]
        pairs = [disturbance.apply(image, mask, rng) for image, mask in parts]
        found = []
        for remedy in remedies(self.adabn):
            shapes = Shapes.of(self._some_masks(rng), self.phases)
            look = self.look([image for image, _ in pairs], remedy, [judged], shapes, count=HELD_OUT)
            labels = [
                window for _, mask in pairs for window in windows(mask, len(look.windows) // len(pairs), self.side)
            ]
            confusion = Confusion.none(self.phases)
            for of_window, label in zip(look.predictions, labels, strict=True):
                confusion += Confusion.of(of_window[0], label, self.phases)
            found.append((look, confusion.miou))
        return found

    def calibration(self, looks: Sequence[Look], share: float = 1.0) -> Calibration:
        """Fit what was learnt to those criteria that all these looks have. share: of the vote, as of Calibration."""
        samples, *known_of_them = zip(*self._samples, strict=True)
        names = {VOTE}.union(set.intersection(*(set(look.criteria) for look in looks)))
        common = [{name: value for name, value in sample.items() if name in names} for sample in samples]
        return Calibration.fit(common, *known_of_them, share)

    def expected(
        self, looks: Sequence[Look], voices: Sequence[float] | None = None, share: float = 1.0
    ) -> tuple[list[tuple[dict[str, float], Expected]], Calibration]:
        """Let several looks at the same micrographs vote, and expect the mIoU of each.

        voices: a factor for the weight of each in the vote. share: of the vote in what is expected. Returns the
        criteria of each look, the vote among them, with the expectation; and the calibration that this is from.
        """
        calibration = self.calibration(looks, share)
        voters, single = self._vote(looks, calibration.alone, voices)
        return list(zip(voters, calibration.expected(voters, voices, single), strict=True)), calibration

    def _vote(
        self, looks: Sequence[Look], alone: Alone, voices: Sequence[float] | None = None
    ) -> tuple[list[dict[str, float]], list[list[dict[str, float]]]]:
        """Give the criteria of looks, and how far each is from the vote of the others; and the same by micrograph."""
        weights = np.array([alone.weight(look.criteria) for look in looks]) * (1 if voices is None else voices)
        found = compared([look.ballots for look in looks], weights, self.phases)
        together = [look.criteria | {VOTE: dissent(of)} for look, of in zip(looks, found, strict=True)]
        count = len(looks[0].single)
        each = len(found[0]) // count
        single = [
            [
                look.single[one] | {VOTE: dissent(of[each * one : each * (one + 1)])}
                for look, of in zip(looks, found, strict=True)
            ]
            for one in range(count)
        ]
        return together, single

    def _some_masks(self, rng: np.random.Generator) -> list[np.ndarray]:
        """A third of the labels that are neighbours in the fraction that is not the first phase, at least three."""
        count = min(len(self.masks), max(3, len(self.masks) // 3))
        first = rng.integers(0, len(self.masks) - count + 1)
        return sorted(self.masks, key=lambda mask: np.count_nonzero((mask > 0) & (mask != IGNORED)))[
            first : first + count
        ]


def _iou_of_labelled(confusion: Confusion) -> list[float]:
    """Give the IoU of each phase, nan of one without a label: a single pixel that is taken for it would make it 0."""
    labelled = confusion.counts.sum(1) > 0
    return [iou if there else float("nan") for iou, there in zip(confusion.iou(), labelled, strict=True)]


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([of[name] for of in found])) for name in found[0]}


def _read(kept: Path, identity: str) -> dict | None:
    """Read a kept calibration; None where there is none, or not of this identity."""
    try:
        known = json.loads(kept.read_text())
        whole = known["samples"] and all(np.isfinite(miou) for _, miou, *_ in known["samples"])
        return known if known["of"] == identity and whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def with_statistics_of(
    network: nn.Module, seen: Sequence[np.ndarray], cut: Cut, device: torch.device | str, share: float = 1.0
) -> nn.Module:
    """Copy a model, with batch-norm statistics of windows uint8 (h, w), cut as it segments them.

    share: how far means and variances go from its own to those; all of the way they take their place.
    """
    model: nn.Module = copy.deepcopy(network)
    models.reestimate_statistics(model, (batch for window in seen for batch in window_batches(window, *cut, device)))
    for own, new in zip(network.buffers(), model.buffers(), strict=True):
        if new.is_floating_point():
            new.copy_(own.lerp(new, share))
    return model
