"""The judge's criteria while a model trains: a look at the unlabelled target every few hundred steps."""

import models
from data.store import Store
from evaluation.judge.criteria import Shapes, criteria
from evaluation.judge.windows import side_of, windows
from evaluation.scoring import spread
from training.distributed import Processes

_SPECIMENS = 32  # annotated source micrographs whose regions are the yardstick
_WINDOWS = 2  # of the target that are looked at
_WORSE = 1.0  # standard deviations between the source's labels
_IN_A_ROW = 3


class TargetWatch:
    """Looks at a model's predictions of two fixed training micrographs of the target, without their labels."""

    def __init__(self, source: Store, target: Store, fold: int, processes: Processes):
        """source: with labels, whose regions are the yardstick. target: opened without labels."""
        self.processes, self.best, self.farther = processes, float("inf"), 0
        if not processes.is_main:
            return
        there = sorted(set(target.tile_micrograph[target.training_tiles(fold, labelled=False)].tolist()))
        self.cut = source.tile, source.overlap
        side = side_of(source.tile)
        self.windows = [windows(target.image(micrograph), 1, side)[0] for micrograph in spread(there, _WINDOWS)]
        labelled = sorted(set(source.tile_micrograph[source.training_tiles(fold, labelled=True)].tolist()))
        masks = [windows(source.mask(micrograph), 1, side)[0] for micrograph in spread(labelled, _SPECIMENS)]
        self.shapes = Shapes.of(masks, source.phases)

    def look(self, model: models.Segmenter) -> dict[str, float]:
        """Criteria of the target's windows by name, `judge_entropy` and so on; empty on other processes than the main.

        The model is left in the mode and domain that it was in.
        """
        if not self.processes.is_main:
            return {}
        training, domain = model.training, models.domain_in_use(model)
        models.set_domain(model, "target")
        try:
            model.eval()
            found = [
                criteria([model], window, self.shapes, self.cut, self.processes.device)[0] for window in self.windows
            ]
        finally:
            model.train(training)
            models.set_domain(model, domain)
        means = {name: sum(of[name] for of in found) / len(found) for name in found[0]}
        self.away = means["shape"]
        return {f"judge_{name}": value for name, value in means.items()}

    def worse(self) -> list[str]:
        """Warn, once, after the look where the target's regions look less and less like the source's labelled ones."""
        if not self.processes.is_main:
            return []
        away, self.best = self.away, min(self.best, self.away)
        self.farther = self.farther + 1 if away > self.best + _WORSE else 0
        if self.farther != _IN_A_ROW:
            return []
        return [
            f"the model on the target gets worse: its regions are {away:.1f} standard deviations from the source's "
            f"labelled ones, and were {self.best:.1f}. Look at panels/; stop earlier, or lower --lambda-adv-main and "
            "--lambda-adv-aux. evaluation.choose compares the outcome with the source's model."
        ]
