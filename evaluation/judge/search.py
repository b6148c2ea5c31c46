"""The search for a remedy on an unlabelled target, and what is made of it."""

import json
from dataclasses import asdict, dataclass, replace

from tqdm import tqdm

from data.store import Store
from evaluation.judge.advice import Advice, Tried, advise, as_it_is, remarks
from evaluation.judge.calibration import Calibration
from evaluation.judge.judge import WINDOWS, Judge
from evaluation.judge.remedies import Remedy, remedies
from evaluation.scoring import spread

SCALES = (0.5, 0.71, 1.41, 2.0)
_SCALED = 3  # of the best remedies are tried at other scales


@dataclass(frozen=True)
class Gap:
    """Outcome for a target: what was tried, best first, the advice, what to check, and the judge's calibration.

    prepared: polarity, grey levels and pixel size that its store has.
    """

    source: str
    target: str
    runs: list[str]
    prepared: dict
    source_miou: float
    tried: list[Tried]
    advice: Advice
    remarks: list[str]
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
            "remarks": self.remarks,
            "recommended": _described(self.advice.recommended),
            "as_it_is": _described(as_it_is(self.tried)),
            "tried": [_described(each) for each in self.tried],
            "calibration": {
                "weights": {name: round(weight, 4) for name, weight in self.calibration.weights.items()},
                "mean_absolute_error": round(self.calibration.mae, 4),
                "spearman": round(self.calibration.spearman, 4),
            },
        }
        return json.dumps(content, indent=2) + "\n"


def measure(judge: Judge, target: Store, progress: str | None = None) -> Gap:
    """Try the remedies on a target, whose store is opened without labels. InputError without training micrographs."""
    images, looks = spread(judge.images_of(target), WINDOWS), {}

    def look(some: list[Remedy]) -> None:
        for remedy in tqdm(some, desc=progress, unit="remedy", disable=progress is None, leave=False):
            looks[remedy] = judge.look(images, remedy)

    def ranked() -> tuple[list[Tried], Calibration]:
        """Rank what was tried until now, the best first. With what else was tried, the vote changes."""
        found, calibration = judge.expected(list(looks.values()))
        voted = zip(looks.items(), found, strict=True)
        tried = [
            Tried(remedy, *of_look, look.fractions(judge.phases), look.pictures()) for (remedy, look), of_look in voted
        ]
        return sorted(tried, key=lambda each: -each.expected.miou), calibration

    look(remedies(judge.adabn, matched=_prepared(target)["match"] == judge.source.domain))
    look([replace(best.remedy, scale=scale) for best in ranked()[0][:_SCALED] for scale in SCALES])
    found, calibration = ranked()
    names = target.domain, judge.source.domain
    inverted = _prepared(target)["invert"]
    advice = advise(found, *names, judge.source_miou, judge.floor, judge.fractions, calibration.trusted, inverted)
    runs, source = [str(member.run) for member in judge.members], judge.source
    said = remarks(found, advice, judge.fractions, source.classes, judge.source_iou)
    found_of = (_prepared(target), judge.source_miou, found, advice, said, calibration, source.classes)
    return Gap(source.domain, target.domain, runs, *found_of)


def _prepared(target: Store) -> dict:
    """Describe what the remedies are on top of: a store may have some of them already."""
    parameters = target.metadata["parameters"]
    known = {name: parameters[name] for name in ("invert", "pixel_size_nm")}
    return known | {"match": parameters.get("match")}


def _described(tried: Tried) -> dict:
    criteria = {name: round(value, 4) for name, value in tried.criteria.items()}
    return {
        "remedy": str(tried.remedy),
        **asdict(tried.remedy),
        "expected": tried.expected.numbers(),
        "criteria": criteria,
    } | {"fractions": [round(fraction, 4) for fraction in tried.fractions]}
