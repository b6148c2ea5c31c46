"""Trends of the study that our runs show or do not show, by one rule on their scores and no decision by hand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from evaluation.metrics import mean_std
from evaluation.study import published
from evaluation.study.published import StudyRuns
from evaluation.study.study_tables import adapted_pair, common_scores, scores_of

FEWEST = 3  # folds
RULE = (
    "In percent. The difference is taken fold by fold, over the folds that both sides have. A trend holds, or does not "
    "hold, where the mean difference is larger than the sample standard deviation of the differences (with five "
    f"folds: a paired t above 2.2). Where it is smaller, or with fewer than {FEWEST} folds, it cannot be said. "
    "Bagging: the ensemble minus each of its members. Distance from the label: the mean over folds of the absolute "
    "difference; for the study, whose folds are not published, that of its means. Scatter: the difference of the two "
    "standard deviations, against their joint uncertainty, each a share 1/√(2 (n - 1)) of itself. About equal holds "
    "where the difference is within its standard deviation."
)
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be said"
AUGMENTATIONS = ("none", "basic", "extended")
PRETRAININGS = ("random", "imagenet", "nanosem")


@dataclass(frozen=True)
class Trend:
    """A finding of the study and its section, our values and the study's, and the outcome with its reason."""

    section: str
    claim: str
    ours: str
    study: str
    verdict: str
    reason: str = ""


def check(runs: StudyRuns) -> list[Trend]:
    """All trends of a StudyRuns."""
    return [
        *_of_training(runs),
        *_of_targets(runs),
        *_of_domains(runs),
        _common(runs),
    ]


def compare(
    section: str,
    claim: str,
    more: dict[int, float],
    less: dict[int, float],
    of_study: Sequence[float],
    equal: bool = False,
) -> Trend:
    """Trend that `more` exceeds `less`, or with `equal` that they are about equal.

    more, less: {fold: fraction}. of_study: the study's two values in percent.
    """
    folds = [fold for fold in more if fold in less]
    differences = [more[fold] - less[fold] for fold in folds]
    known = f"{of_study[0]:.1f} against {of_study[1]:.1f}: {of_study[0] - of_study[1]:+.1f}"
    if not folds:
        return Trend(section, claim, "", known, OPEN, "no runs of both" if not (more and less) else "no fold in common")
    means = [100 * mean_std(values[fold] for fold in folds)[0] for values in (more, less)]
    mean, std, count = mean_std(differences)
    spread = "" if std is None else f" ± {100 * std:.1f}"
    ours = f"{means[0]:.1f} against {means[1]:.1f}: {100 * mean:+.1f}{spread} ({count} fold{'s' if count > 1 else ''})"
    if count < FEWEST:
        return Trend(section, claim, ours, known, OPEN, f"{count} of at least {FEWEST} folds")
    if abs(mean) <= std:
        return Trend(section, claim, ours, known, HOLDS if equal else OPEN, "" if equal else "smaller than the spread")
    return Trend(section, claim, ours, known, HOLDS if mean > 0 and not equal else FAILS)


def compare_spreads(
    section: str, claim: str, wide: dict[int, float], narrow: dict[int, float], of_study: Sequence[float]
) -> Trend:
    """Trend that the standard deviation over folds of `wide` exceeds that of `narrow`, each {fold: fraction}."""
    known = f"{of_study[0]:.1f} against {of_study[1]:.1f}"
    spreads = [mean_std(values.values())[1] for values in (wide, narrow)]
    count = min(len(wide), len(narrow))
    if None in spreads:
        return Trend(section, claim, "", known, OPEN, "no two folds of both")
    ours = f"{100 * spreads[0]:.1f} against {100 * spreads[1]:.1f} ({count} folds)"
    if count < FEWEST:
        return Trend(section, claim, ours, known, OPEN, f"{count} of at least {FEWEST} folds")
    uncertain = sum(s**2 / (2 * (len(v) - 1)) for s, v in zip(spreads, (wide, narrow), strict=True)) ** 0.5
    if abs(spreads[0] - spreads[1]) <= uncertain:
        return Trend(section, claim, ours, known, OPEN, "smaller than its uncertainty")
    return Trend(section, claim, ours, known, HOLDS if spreads[0] > spreads[1] else FAILS)


def _of_training(runs: StudyRuns) -> Iterator[Trend]:
    """Table 2: pre-training and augmentation help on the source; Table 4: the extended augmentation not on t2."""
    name = {(line.pretraining, line.augmentation): line.experiment for line in published.findings(2) if _unet(line)}
    for better, worse in (("imagenet", "random"), ("nanosem", "imagenet")):
        for augmentation in AUGMENTATIONS:
            pair = name[better, augmentation], name[worse, augmentation]
            yield _pair(runs, "3.1", f"pre-training {better} > {worse}, augmentation {augmentation}, source", *pair)
    for better, worse in (("basic", "none"), ("extended", "basic")):
        for pretraining in PRETRAININGS:
            pair = name[pretraining, better], name[pretraining, worse]
            yield _pair(runs, "3.1", f"augmentation {better} > {worse}, pre-training {pretraining}, source", *pair)
    on_t2 = {(line.pretraining, line.augmentation): line.experiment for line in published.findings(4) if _unet(line)}
    for pretraining in PRETRAININGS:
        pair = on_t2[pretraining, "basic"], on_t2[pretraining, "extended"]
        yield _pair(runs, "4.2", f"augmentation basic > extended, pre-training {pretraining}, t2", *pair)


def _of_targets(runs: StudyRuns) -> Iterator[Trend]:
    """Tables 3 to 5 and 7, Section 4.2: gains of adaptation and bagging on each target."""
    for domain, fractions in published.phase_fractions().items():
        generalization, adapted = adapted_pair(domain)
        yield _pair(runs, "3.2", f"UDA > generalization, {domain}", adapted, generalization)
        errors, fraction = [], []
        for experiment in (generalization, adapted):
            scores = scores_of(runs, experiment)
            fraction.append({fold: score["phase_fraction_predicted"] for fold, score in scores.items()})
            label = {fold: score["phase_fraction_label"] for fold, score in scores.items()}
            errors.append({fold: abs(found - label[fold]) for fold, found in fraction[-1].items()})
        off = [abs(fractions[f"phi_{method}"] - fractions["phi_label"]) for method in ("dg", "uda")]
        claim = f"phase fraction of generalization further from the label than UDA's, {domain}"
        yield compare("4.2", claim, *errors, off)
        spreads = (fractions["phi_dg_std"], fractions["phi_uda_std"])
        claim = f"phase fraction of generalization scatters more over the folds than UDA's, {domain}"
        yield compare_spreads("4.2", claim, *fraction, spreads)
        place = runs.place(adapted)
        members = _miou(runs.members(place.run, place.domain)) if place else {}
        bagged = runs.bagged(place.run, place.domain) if place else None
        known = (published.of_the_text("bagging")[adapted][0], published.finding(adapted).miou)
        ensemble = dict.fromkeys(members, bagged["miou"]) if bagged else {}
        yield compare("4.2", f"bagging > mean of its members, {domain}", ensemble, members, known)


def _of_domains(runs: StudyRuns) -> Iterator[Trend]:
    """Sections 3.2 and 4.2: the domain shift grows from t1 to t3."""
    targets = list(published.phase_fractions())
    for near, far in pairwise(targets):
        pair = adapted_pair(near)[0], adapted_pair(far)[0]
        yield _pair(runs, "3.2", f"generalization of DeepLabv2 to {near} > to {far}", *pair)
    for near, far in pairwise(targets):
        pair = adapted_pair(near)[1], adapted_pair(far)[1]
        on_source = [
            _miou(runs.scores(place.run, place.source)) if (place := runs.place(name)) else {} for name in pair
        ]
        known = [published.of_the_text("source")[name][0] for name in pair]
        yield compare("4.2", f"score on the source after adaptation to {near} > to {far}", *on_source, known)


def _common(runs: StudyRuns) -> Trend:
    """Section 4.3: another phase fraction of the target's training tiles makes no difference."""
    known = published.of_the_text("common")
    scores = [_miou(common_scores(runs, name)) for name in known]
    return compare("4.3", "T3 about equal to T3v", *scores, [miou for miou, _ in known.values()], equal=True)


def _pair(runs: StudyRuns, section: str, claim: str, more: str, less: str) -> Trend:
    known = [published.finding(name).miou for name in (more, less)]
    return compare(section, claim, *(_miou(scores_of(runs, name)) for name in (more, less)), known)


def _miou(scores: dict[int, dict]) -> dict[int, float]:
    return {fold: score["miou"] for fold, score in scores.items()}


def _unet(line: published.Finding) -> bool:
    return line.model == "unet_vgg16"
