"""Review of a cleaning by a person: a table, contact sheets, and the file of corrections."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from common.errors import InputError, make_folder
from common.files import write_csv, write_image

COLUMNS = ("file", "class", "height", "width", "bar_row", "marks", "decision", "reason")
_THUMBNAIL, _TEXT = (192, 256), 18  # px (h, w) of a picture on a sheet and of the line of text below it
_ACROSS, _DOWN = 6, 5
_BAR, _INK = (255, 140, 0), (255, 0, 255)


class Corrections(NamedTuple):
    """A person's word, which wins: 'keep' or 'discard' by file, and the first row of the bar by file."""

    decisions: dict[str, str]
    bars: dict[str, int]


def read_corrections(path: Path | str, files: list[str]) -> Corrections:
    """Read lines `keep FILE`, `discard FILE` and `bar FILE ROW`; empty lines and those after # say nothing.

    FILE is as in the review's table, ROW counts from 0 at the top; the picture's height says that there is no bar.
    InputError names the line that is none of these or a file that is not there.
    """
    decisions, bars, known = {}, {}, set(files)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable file of corrections ({error})") from error
    for number, line in enumerate(lines, start=1):
        word, _, file = line.strip().partition(" ")
        if not word or word.startswith("#"):
            continue
        file, row = file.strip(), ""
        if word == "bar":
            file, _, row = file.rpartition(" ")
        if word not in ("keep", "discard", "bar") or (word == "bar" and not row.isdecimal()):
            raise InputError(f"{path}: line {number}: {line!r}; write 'keep FILE', 'discard FILE' or 'bar FILE ROW'")
        if file not in known:
            raise InputError(f"{path}: line {number}: no picture {file!r}; files are named as in review.csv")
        if word == "bar":
            bars[file] = int(row)
        else:
            decisions[file] = word
    return Corrections(decisions, bars)


def thumbnail(picture: np.ndarray, bar_row: int, ink: np.ndarray) -> np.ndarray:
    """Reduce a picture, in colour (h, w, 3): the bar that was found is tinted, found ink is coloured."""
    rgb = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture.copy()
    rgb[bar_row:] = (0.5 * rgb[bar_row:] + 0.5 * np.array(_BAR)).astype(np.uint8)
    thick = cv2.dilate(ink.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)  # or the reduction would hide it
    rgb[:bar_row][thick] = _INK
    height, width = _THUMBNAIL
    factor = min(height / rgb.shape[0], width / rgb.shape[1])
    small = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)[:height, :width]
    canvas = np.full((height + _TEXT, width, 3), 255, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    return canvas


class Review:
    """Writer of a review folder: review.csv and contact sheets in four groups, those to look at first by name.

    Groups: `discarded`, `marks` (kept with a few marks), `no-bar` (kept, no bar found), `kept`. A sheet is written
    when it is full, so memory stays small.
    """

    def __init__(self, folder: Path | str):
        self.folder = make_folder(Path(folder))
        for old in self.folder.glob("*-[0-9]*.jpg"):  # of an earlier cleaning
            old.unlink()
        self.rows, self.sheets, self.written = [], {}, {}

    def add(self, row: dict, small: np.ndarray | None) -> None:
        """Add a picture: its row of the table and its thumbnail, None for an unreadable file."""
        self.rows.append(row)
        if small is None:
            return
        if row["decision"] == "discard":
            group = "discarded"
        elif row["marks"]:
            group = "marks"
        else:
            group = "no-bar" if row["bar_row"] == row["height"] else "kept"
        text = f"{row['file'][-34:]} {row['marks']}"
        cv2.putText(small, text, (2, small.shape[0] - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
        self.sheets.setdefault(group, []).append(small)
        if len(self.sheets[group]) == _ACROSS * _DOWN:
            self._write(group)

    def finish(self) -> None:
        """Write the sheets that are not full, and the table."""
        for group, pictures in self.sheets.items():
            if pictures:
                self._write(group)
        write_csv(self.folder / "review.csv", self.rows, COLUMNS)

    def _write(self, group: str) -> None:
        pictures, self.sheets[group] = self.sheets[group], []
        blank = np.full_like(pictures[0], 255)
        pictures += [blank] * (-len(pictures) % _ACROSS)
        rows = [np.hstack(pictures[k : k + _ACROSS]) for k in range(0, len(pictures), _ACROSS)]
        self.written[group] = self.written.get(group, 0) + 1
        name = f"{group}-{self.written[group]:04d}.jpg"
        write_image(self.folder / name, np.vstack(rows), jpeg_quality=85)
