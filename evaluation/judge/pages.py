"""The judge's pages: what was found, in a sentence, a table and pictures."""

from evaluation import page
from evaluation.figures import LEGEND_PREDICTION, grid, overlay
from evaluation.judge.advice import Tried, as_it_is
from evaluation.judge.criteria import CRITERIA
from evaluation.judge.search import Gap

_BEST = 3


def gap_page(gap: Gap) -> str:
    """The page of evaluation.gap."""
    before = as_it_is(gap.tried)
    shown = [before, *[each for each in gap.tried if each is not before][:_BEST]]
    if all(each is not gap.advice.recommended for each in shown):
        shown.append(gap.advice.recommended)
    names = [name for name in CRITERIA if name in before.criteria]
    header = ["", "remedy", "expected mIoU [%]", *names]
    rows = [_row(each, names, gap.advice.recommended, before) for each in gap.tried]
    calibration = gap.calibration
    meanings = "".join(f"<li><b>{page.text(name)}</b>: {page.text(CRITERIA[name])}</li>" for name in names)
    runs = ", ".join(gap.runs)
    sections = [
        f"<p class='warning'><b>{page.text(gap.advice.sentence)}</b></p>",
        f"<p>Models of <b>{page.text(gap.source)}</b> ({page.text(runs)}) on unlabelled micrographs of "
        f"<b>{page.text(gap.target)}</b>. On held-out micrographs of {page.text(gap.source)} they reach a mIoU of "
        f"{100 * gap.source_miou:.0f} %.</p>",
        "<h2>As it is, and the best remedies</h2>",
        page.drawn(_pictures, shown),
        "<h2>All that was tried</h2>",
        page.table(header, rows),
        "<p class='note'>The mIoU is expected, not measured: no label of the target was read. In brackets the interval "
        "that held nine of ten disturbed source micrographs. A target may differ in ways that no disturbance has; then "
        "the interval is too narrow. So look at the pictures.</p>",
        f"<p class='note'>Criteria grow as predictions get worse:</p><ul class='note'>{meanings}</ul>",
        f"<p class='note'>Calibrated on disturbed source micrographs: mean absolute error "
        f"{100 * calibration.mae:.1f} points, Spearman correlation {calibration.spearman:.2f}, each in "
        "cross-validation.</p>",
    ]
    return page.whole(f"From {gap.source} to {gap.target}: the gap before training", sections)


def _row(tried: Tried, names: list[str], recommended: Tried, before: Tried) -> list[str]:
    mark = "recommended" if tried is recommended else "now" if tried is before else ""
    return [mark, str(tried.remedy), str(tried.expected), *(f"{tried.criteria[name]:.3g}" for name in names)]


def _pictures(file: object, shown: list[Tried]) -> None:
    """Draw a row a window: what the models saw under each remedy, with the foreground that the first of them found."""
    rows = []
    for number in range(len(shown[0].pictures)):
        row = []
        for each in shown:
            window, prediction = each.pictures[number]
            row.append((f"{each.remedy}\nexpected {each.expected}" if not number else "", overlay(window, prediction)))
        rows.append(row)
    grid(file, rows, LEGEND_PREDICTION, width=3.2 * len(shown))
