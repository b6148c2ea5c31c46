"""The judge's pages: what was found, in a sentence, a table and pictures."""

import textwrap
from collections.abc import Sequence

from evaluation import page
from evaluation.figures import grid, legend_of, overlay
from evaluation.judge.advice import Tried, as_it_is
from evaluation.judge.calibration import Expected
from evaluation.judge.choice import Choice
from evaluation.judge.criteria import CRITERIA
from evaluation.judge.search import Gap

_HALFWAY = "Halfway: grey levels and batch-norm statistics in the middle between source and target."
_BEST = 3
_LINE = 36  # characters above a picture
_MEASURED = ["measured [%]"]  # column, where labelled micrographs were scored


def gap_page(gap: Gap, truth: dict[str, float]) -> str:
    """The page of evaluation.gap. truth: measured mIoU by remedy, where some were scored."""
    before = as_it_is(gap.tried)
    shown = [before, *[each for each in gap.tried if each is not before][:_BEST]]
    if all(each is not gap.advice.recommended for each in shown):
        shown.append(gap.advice.recommended)
    names = [name for name in CRITERIA if name in before.criteria]
    header = ["", "remedy", "expected mIoU [%]", *_MEASURED[: len(truth)], _found(gap.classes), *names]
    rows = [_row(each, names, gap.advice.recommended, before, truth) for each in gap.tried]
    calibration = gap.calibration
    meanings = "".join(f"<li><b>{page.text(name)}</b>: {page.text(CRITERIA[name])}</li>" for name in names)
    runs = ", ".join(gap.runs)
    sections = [
        f"<p class='warning'><b>{page.text(gap.advice.sentence)}</b></p>",
        *(f"<p>{page.text(remark)}</p>" for remark in gap.remarks),
        f"<p>Models of <b>{page.text(gap.source)}</b> ({page.text(runs)}) on unlabelled micrographs of "
        f"<b>{page.text(gap.target)}</b>. On held-out micrographs of {page.text(gap.source)} they reach a mIoU of "
        f"{100 * gap.source_miou:.0f} %.</p>",
        "<h2>As it is, and the best remedies</h2>",
        page.drawn(_pictures, [(str(each.remedy), each.expected, each.pictures) for each in shown], gap.classes),
        "<h2>All that was tried</h2>",
        page.table(header, rows, wrapped=True),
        "<p class='note'>The mIoU is expected, not measured: no label of the target was read for it. In brackets the "
        "interval that held nine of ten disturbed source micrographs. A target may differ in ways that no disturbance "
        f"has; then the interval is too narrow. So look at the pictures. {_HALFWAY}</p>",
        f"<p class='note'>Criteria grow as predictions get worse:</p><ul class='note'>{meanings}</ul>",
        f"<p class='note'>Calibrated on disturbed source micrographs: mean absolute error "
        f"{100 * calibration.mae:.1f} points, Spearman correlation {calibration.spearman:.2f}, each in "
        "cross-validation.</p>",
    ]
    return page.whole(f"From {gap.source} to {gap.target}: the gap before training", sections)


def choice_page(choice: Choice, truth: dict[str, float]) -> str:
    """The page of evaluation.choose. truth: measured mIoU by candidate, where they were scored."""
    names = [name for name in CRITERIA if any(name in one.criteria for one in choice.ranked)]
    header = [
        "",
        "candidate",
        "expected mIoU [%]",
        *_MEASURED[: len(truth)],
        _found(choice.classes),
        *names,
    ]
    rows, taken = [], {part.name for part in choice.chosen.parts or (choice.chosen.candidate,)}
    for one in choice.ranked:
        mark = "as it is" if one.candidate.is_generalization else ""
        mark = "votes" if choice.chosen.parts and one.candidate.name in taken else mark
        mark = "chosen" if one is choice.chosen else mark
        measured = _measured(one.candidate.name, truth)
        values = (f"{one.criteria[name]:.3g}" if name in one.criteria else "" for name in names)
        rows.append([mark, one.candidate.name, str(one.expected), *measured, _percent(one.fractions), *values])
    # As it is, what was taken, and the best of the rest.
    alone = [one for one in choice.ranked if not one.parts]
    first = sorted(alone, key=lambda one: (one is not choice.safe, one.candidate.name not in taken))
    shown = first[: 1 + _BEST]
    sections = [
        f"<p class='warning'><b>{page.text(choice.sentence)}</b></p>",
        *(f"<p>{page.text(remark)}</p>" for remark in choice.remarks),
        page.table(header, rows, wrapped=True),
        "<p class='note'>The mIoU is expected, not measured: the choice was made without a label of the target"
        + (", and what was measured afterwards did not change it" if truth else "")
        + f". {_HALFWAY}</p>",
        page.drawn(_pictures, [(one.candidate.name, one.expected, one.pictures) for one in shown], choice.classes),
    ]
    return page.whole(f"Which model for {choice.target}", sections)


def _measured(name: str, truth: dict[str, float]) -> list[str]:
    return [f"{100 * truth[name]:.1f}" if name in truth else ""] if truth else []


def _row(tried: Tried, names: list[str], recommended: Tried, before: Tried, truth: dict[str, float]) -> list[str]:
    mark = "recommended" if tried is recommended else "now" if tried is before else ""
    values = (f"{tried.criteria[name]:.3g}" for name in names)
    measured = _measured(str(tried.remedy), truth)
    return [mark, str(tried.remedy), str(tried.expected), *measured, _percent(tried.fractions), *values]


def _found(classes: Sequence[str]) -> str:
    """Head of the column of area fractions."""
    return f"{', '.join(classes[1:])} found [%]"


def _percent(fractions: Sequence[float]) -> str:
    return ", ".join(f"{100 * fraction:.0f}" for fraction in fractions[1:])


def _pictures(file: object, shown: list[tuple[str, Expected, list]], classes: Sequence[str]) -> None:
    """Draw a row a window: what the models saw, with the phases that the first of them found."""
    rows = []
    for number in range(len(shown[0][2])):
        row = []
        for name, expected, pictures in shown:
            window, prediction = pictures[number]
            title = f"{textwrap.fill(name, _LINE)}\nexpected {expected}"
            row.append((title if not number else "", overlay(window, prediction, classes=classes)))
        rows.append(row)
    grid(file, rows, legend_of(classes, prediction=True), width=3.2 * len(shown))
