"""The search for a remedy on an unlabelled target, and what is made of it."""

import json
from dataclasses import asdict, dataclass
from itertools import product

from tqdm import tqdm

from data.store import Store
from evaluation.judge.advice import Advice, Tried, advise, as_it_is
from evaluation.judge.calibration import Calibration
from evaluation.judge.criteria import CRITERIA
from evaluation.judge.judge import WINDOWS, Judge
from evaluation.judge.remedies import Remedy
from evaluation.scoring import spread

SCALES = (0.5, 0.71, 1.41, 2.0)
_SCALED = 3  # of the best remedies are tried at other scales
PICTURES = 3


@dataclass(frozen=True)
class Gap:
    """Outcome for a target: what was tried, best first, the advice, and how the judge was calibrated.

    prepared: polarity and grey levels that its store has.
    """

    source: str
    target: str
    runs: list[str]
    prepared: dict
    source_miou: float
    tried: list[Tried]
    advice: Advice
    calibration: Calibration
    classes: tuple[str, ...]

    def as_json(self) -> str:
        """Give the content of gap.json."""
        content = {
            "source": self.source,
            "target": self.target,
            "runs": self.runs,
            "prepared": self.prepared,
            "source_miou": round(self.source_miou, 4),
            "advice": self.advice.kind,
            "sentence": self.advice.sentence,
            "recommended": _described(self.advice.recommended),
            "as_it_is": _described(as_it_is(self.tried)),
            "tried": [_described(each) for each in self.tried],
            "calibration": {
                "weights": {
                    name: round(float(weight), 4)
                    for name, weight in zip(self.calibration.names, self.calibration.weights, strict=True)
                },
                "mean_absolute_error": round(self.calibration.mae, 4),
                "spearman": round(self.calibration.spearman, 4),
            },
        }
        return json.dumps(content, indent=2) + "\n"


def measure(judge: Judge, target: Store, progress: str | None = None) -> Gap:
    """Try the remedies on a target, whose store is opened without labels. InputError without training micrographs."""
    images, calibration = spread(judge.images_of(target), WINDOWS), judge.calibration(CRITERIA)

    def tried(remedies: list[Remedy]) -> list[Tried]:
        found = []
        for remedy in tqdm(remedies, desc=progress, unit="remedy", disable=progress is None, leave=False):
            criteria, windows, predictions = judge.look(images, remedy)
            pictures = [(windows[k], predictions[k][0]) for k in spread(range(len(windows)), PICTURES)]
            found.append(Tried(remedy, calibration.expected(criteria), criteria, pictures))
        return sorted(found, key=lambda each: -each.expected.miou)

    switches = product((False, True), (False, True), (False, True) if judge.adabn else (False,))
    found = tried([Remedy(invert, match, 1.0, adabn) for invert, match, adabn in switches])
    best = [each.remedy for each in found[:_SCALED]]
    found += tried([Remedy(one.invert, one.match, scale, one.adabn) for one in best for scale in SCALES])
    found.sort(key=lambda each: -each.expected.miou)
    names = target.domain, judge.source.domain
    inverted = _prepared(target)["invert"]
    advice = advise(found, *names, judge.source_miou, judge.floor, calibration.trusted_gain, inverted)
    runs, source = [str(member.run) for member in judge.members], judge.source
    found_of = (_prepared(target), judge.source_miou, found, advice, calibration, source.classes)
    return Gap(source.domain, target.domain, runs, *found_of)


def _prepared(target: Store) -> dict:
    """Describe what the remedies are on top of: a store may have some of them already."""
    parameters = target.metadata["parameters"]
    return {"invert": parameters["invert"], "match": parameters.get("match")}


def _described(tried: Tried) -> dict:
    numbers = {name: round(value, 4) for name, value in asdict(tried.expected).items()}
    criteria = {name: round(value, 4) for name, value in tried.criteria.items()}
    return {"remedy": str(tried.remedy), **asdict(tried.remedy), "expected": numbers, "criteria": criteria}
