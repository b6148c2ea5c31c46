"""The report of launch/adapt.sh: what was found on a laboratory's micrographs, how sure it is, and what to look at.

    python -m evaluation.laboratory runs/sem-lom

reads what the launcher's steps have left in that folder, and writes report.html there.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.laboratory")

import argparse
import csv
import json
import re
from pathlib import Path

from common.errors import InputError, exits_cleanly
from common.files import write_file
from data.pictures import palette_of
from evaluation import page
from evaluation.fractions import ACCURACY, Fraction, sentence
from evaluation.judge.advice import ENOUGH, scale_asked
from evaluation.judge.calibration import Expected
from evaluation.judge.remedies import Remedy
from evaluation.segment_folder import SPECIMEN

_FRACTION = "phase_fraction"  # column; of more phases than two with the name of each
_LOOKED_AT = 8  # images whose pictures are in the page, the least sure first
_WARNING = "warning: "
_WARNED = 12  # warnings that are shown
_WIDE = 0.2  # of an interval of the expected mIoU
_UNSURE = 0.8  # mean confidence of an image


class Outcome:
    """Outcome of the steps, as their folder has it."""

    def __init__(self, folder: Path):
        """Read it. InputError where a file is missing or damaged."""
        self.folder = folder
        self.gap = _json(folder / "gap" / "gap.json")
        choice = folder / "choice" / "choice.json"
        self.steps = steps_of(folder)
        segmented_by = " ".join(line for step in self.steps if step["step"] == "segment" for line in step["commands"])
        self.choice = _json(choice) if "choice.json" in segmented_by else None  # else by the recommended remedy
        scores = folder / ("gap" if self.choice is None else "choice") / "scores.json"
        self.scores = _json(scores) if scores.exists() else {}
        table = folder / "segmented" / "phase_fractions.csv"
        try:
            rows = list(csv.DictReader(table.read_text().splitlines()))
            self.images, self.specimen = [row for row in rows if row["file"] != SPECIMEN], rows[-1]
            self.phases = [name.removeprefix(_FRACTION) for name in self.specimen if name.startswith(_FRACTION)]
            self.fractions = {end: _fraction(self.specimen, end) for end in self.phases}
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise InputError(f"{table}: not a readable table ({error!r}). Run launch/adapt.sh again.") from error
        self.images.sort(key=lambda row: float(row["confidence"]))

    @property
    def taken(self) -> str:
        """Name of the model that was taken."""
        return self.gap["recommended"]["remedy"] if self.choice is None else self.choice["chosen"]

    @property
    def expected(self) -> dict:
        """Give what is expected of the model that was taken: mIoU, low and high, fractions of 1."""
        if self.choice is None:
            return self.gap["recommended"]["expected"]
        return next(one["expected"] for one in self.choice["ranked"] if one["name"] == self.taken)


def steps_of(folder: Path) -> list[dict]:
    """Read what the launcher has noted of its steps, in their order."""
    found = (_json(path) for path in (folder / "steps").glob("*.json"))
    return sorted(found, key=lambda step: (step.get("position", 0), step["finished"]))


def warnings_of(folder: Path) -> list[str]:
    """List the warnings in the launcher's log, each once: of all its calls, so that some may be settled by now."""
    log = folder / "log.txt"
    lines = re.split(r"[\r\n]", log.read_text(errors="replace")) if log.exists() else []
    said = (line.partition(_WARNING)[2].strip() for line in lines if line.lstrip().startswith(_WARNING))
    return list(dict.fromkeys(said))


def report(outcome: Outcome) -> str:
    """Make the page."""
    gap, folder = outcome.gap, outcome.folder
    said = (gap if outcome.choice is None else outcome.choice)["sentence"].replace(f"{folder}/", "")
    said_of = (sentence(one, outcome.specimen["field"], end[1:]) for end, one in outcome.fractions.items())
    fraction, expected = "\n".join(text[:1].upper() + text[1:] for text in said_of), outcome.expected
    links = [("gap/gap.html", "what the target needs")]
    links += [("choice/choice.html", "the choice")] if outcome.choice else []
    links += [("stores/contact_sheet.png", "the micrographs as they were cut"), ("log.txt", "the log")]
    links += [("segmented/phase_fractions.csv", "all phase fractions"), ("segmented/masks", "all masks")]
    there = [f"<a href='{path}'>{page.text(name)}</a>" for path, name in links if (folder / path).exists()]
    sections = [
        f"<p class='warning'><b>{page.text(fraction)}</b></p>",
        f"<p>Of {len(outcome.images)} images of <b>{page.text(gap['target'])}</b>, segmented by what was learnt on "
        f"<b>{page.text(gap['source'])}</b>. No label of {page.text(gap['target'])} was used. "
        f"The expected mIoU is {_interval(expected)} %; held-out micrographs of {page.text(gap['source'])} have "
        f"{100 * gap['source_miou']:.0f} %.</p>",
        f"<p>{page.text(said[:1].upper() + said[1:])}{_applied(outcome)}{_measured(outcome)}</p>",
        "<h2>What to check</h2>",
        _list(remarks(outcome)),
        *_warned(outcome),
        f"<p class='note'>More: {', '.join(there)}.</p>",
        "<h2>Look at these first</h2>",
        "<p class='note'>The images that the models are least sure of. On the left what was found, on the right where "
        f"they are unsure.{_legend(outcome)}</p>",
        *(_pictures(outcome, row) for row in outcome.images[:_LOOKED_AT]),
        "<h2>All images, the least sure first</h2>",
        page.table(_header(outcome), (_row(outcome, row) for row in outcome.images)),
        "<h2>What was expected of each model</h2>",
        *_expectations(outcome),
        "<h2>What was done</h2>",
        *_done(outcome),
    ]
    return page.whole(f"From {gap['source']} to {gap['target']}", sections)


def remarks(outcome: Outcome) -> list[str]:
    """List in sentences what a person should check before the fractions are quoted."""
    expected, found = outcome.expected, []
    if expected["miou"] < ENOUGH * outcome.gap["source_miou"]:
        found.append(
            "The models are expected to be far from what they reach on the source. Do not quote the fraction before a "
            "person has compared masks and images."
        )
    if outcome.gap["advice"] == "label" and outcome.choice:  # else it stands above
        said = outcome.gap["sentence"]
        found.append(f"Before adaptation: {said} Check every picture.")
    if expected["high"] - expected["low"] > _WIDE:
        found.append(f"The expected mIoU is {_interval(expected)} %. That is wide: look at the pictures.")
    scale = outcome.gap["recommended"]["scale"]
    if scale != 1:
        found.append(f"Correct this first: {scale_asked(scale)}.")
    of = [outcome.gap, *([outcome.choice] if outcome.choice else [])]
    # Files of before November 2026 have none. What the gap says of a fraction, the choice may say of another.
    found += dict.fromkeys(remark for one in of for remark in one.get("remarks", []))
    unsure = [row for row in outcome.images if float(row["confidence"]) < _UNSURE]
    if unsure:
        found.append(
            f"{len(unsure)} of {len(outcome.images)} images have a mean confidence below {100 * _UNSURE:.0f} %."
        )
    for end, fraction in outcome.fractions.items():
        if not fraction.mean:
            found.append(f"No pixel{_of(end)} was found in any image. If there should be some, look at the pictures.")
        elif not fraction.relative_accuracy <= ACCURACY:  # which is unknown of one field
            found.append(f"The fields are too few for the phase fraction{_of(end)} to be quoted to 10 %.")
        if fraction.ci95_with_models > 2 * fraction.ci95:
            found.append(
                f"The models differ more than the fields do{_of(end)}: quote the interval with the models' spread."
            )
    return found or ["Nothing stands out. Look at the pictures all the same."]


def _warned(outcome: Outcome) -> list[str]:
    found = [line.replace(f"{outcome.folder}/", "") for line in warnings_of(outcome.folder)]
    if not found:
        return []
    more = [f"and {len(found) - _WARNED} more, in log.txt"] * (len(found) > _WARNED)
    note = "Of every call in this folder: what was corrected since stands here too."
    return ["<h2>What the steps warned of</h2>", _list(found[:_WARNED] + more), f"<p class='note'>{note}</p>"]


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{page.text(line)}</li>" for line in lines) + "</ul>"


def _pictures(outcome: Outcome, row: dict) -> str:
    stem = Path(row["file"]).stem
    pictures = [outcome.folder / "segmented" / kind / f"{stem}.png" for kind in ("overlays", "confidence")]
    shown = "".join(page.image(path.read_bytes(), stem) for path in pictures if path.exists())
    found = ", ".join(f"{end[1:]} {_percent(row[_FRACTION + end])} %".strip() for end in outcome.phases)
    title = f"{row['file']}: {found}, confidence {_percent(row['confidence'])} %"
    return f"<h3>{page.text(title)}</h3><div class='beside'>{shown}</div>"


def _header(outcome: Outcome) -> list[str]:
    columns = ((f"{end[1:] or 'phase fraction'} [%]", "95 % interval [%]") for end in outcome.phases)
    return ["image", *(name for pair in columns for name in pair), "confidence [%]"]


def _row(outcome: Outcome, row: dict) -> list[str]:
    intervals = {end: f"± {_percent(row[f'ci95{end}'])}" if row[f"ci95{end}"] else "" for end in outcome.phases}
    found = ((_percent(row[_FRACTION + end]), intervals[end]) for end in outcome.phases)
    return [row["file"], *(cell for pair in found for cell in pair), _percent(row["confidence"])]


def _legend(outcome: Outcome) -> str:
    """Colours of the phases in the pictures, of more than two; of two the one phase is tinted."""
    if len(outcome.phases) < 2:
        return ""
    palette = palette_of([end[1:] for end in outcome.phases])
    named = (
        f"<span style='color:rgb{colour}'>&#9632;</span> {page.text(palette.names[phase])}"
        for phase, colour in palette.tints.items()
    )
    return f" Colours: {', '.join(named)}; {page.text(palette.names[0])} has none."


def _of(end: str) -> str:
    return f" of {end[1:]}" if end else ""


def _applied(outcome: Outcome) -> str:
    """Say that what is recommended has been done already, where the segmentation is by the source's models."""
    if outcome.choice is not None or outcome.gap["recommended"]["remedy"] == str(Remedy()):
        return ""
    return " That has been done here, by the models that segmented these images. domains.toml is as it was."


def _measured(outcome: Outcome) -> str:
    if outcome.taken not in outcome.scores:
        return ""
    return f" On the labelled test images it has {100 * outcome.scores[outcome.taken]:.0f} %; this steered nothing."


def _expectations(outcome: Outcome) -> list[str]:
    ranked = (
        outcome.choice["ranked"] if outcome.choice else [one | {"name": one["remedy"]} for one in outcome.gap["tried"]]
    )
    header = ["", "model", "expected mIoU [%]", *(["measured [%]"] if outcome.scores else [])]
    rows = []
    for one in ranked:
        measured = [_percent(outcome.scores.get(one["name"], ""))] if outcome.scores else []
        name = one["name"].replace(f"{outcome.folder}/", "")
        rows.append(["taken" if one["name"] == outcome.taken else "", name, _interval(one["expected"]), *measured])
    note = "Expected, not measured: no label of the target was read for it."
    note += " What was measured on labelled test images came afterwards." if outcome.scores else ""
    return [page.table(header, rows, wrapped=True), f"<p class='note'>{note}</p>"]


def _done(outcome: Outcome) -> list[str]:
    rows = [[step["title"], f"{(step['seconds'] or 0) / 60:.1f}", step["finished"]] for step in outcome.steps]
    commands = "\n".join(command for step in outcome.steps for command in step["commands"])
    table = page.table(["step", "minutes", "finished"], rows)
    return [table, "<h3>The commands, to repeat it</h3>", f"<pre>{page.text(commands)}</pre>"]


def _fraction(row: dict, end: str) -> Fraction:
    names = (f"{name}{end}" for name in (_FRACTION, "std_fields", "ci95", "std_models", "ci95_with_models"))
    mean, *others = (float(row[name] or "nan") for name in names)
    return Fraction(mean, int(row["fields"]), *others)


def _interval(expected: dict) -> str:
    return str(Expected(*(expected[name] for name in ("miou", "low", "high"))))


def _percent(value: str | float) -> str:
    return f"{100 * float(value):.1f}" if value != "" else ""


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Run launch/adapt.sh again.") from error


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.laboratory", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder that launch/adapt.sh has written to")
    folder = parser.parse_args().folder
    write_file(folder / "report.html", report(Outcome(folder)))


if __name__ == "__main__":
    main()
