"""A table of micrographs, CSV: what no file says of them, a row for each."""

import csv
import io
import re
import unicodedata
from collections.abc import Collection
from itertools import combinations
from pathlib import Path

from common.errors import InputError
from data.decoding import SUFFIXES
from data.tiff import Page

FILE = "file"  # in place of a number: what the file itself says
_COLUMNS = ("name", "pixel_size_nm", "information_bar", "mask", "page", "test", "fold")
_YES, _NO = ("true", "yes", "1", "x"), ("false", "no", "0")
_MOST_PAGE = 10_000
_DEEP = 8  # folders of a path


def composed(name: str) -> str:
    """A name with every letter and its accents as one character, where Unicode has it (NFC)."""
    return unicodedata.normalize("NFC", name)


def without_ending(name: str) -> str:
    """A name without the ending of an image file, if it has one."""
    return Path(name).stem if name.lower().endswith(SUFFIXES) else name


def read_table(path: Path, names: Collection[str], by_folder: bool = False) -> dict[str, dict[str, object]]:
    """Read the rows of a table by the name of their micrograph, one of `names`: its values that are not empty.

    Values have the types of domains.toml, FILE among them; `mask` is text. Names may have their file's folders
    and ending; by_folder: `names` begin with some of the folders. Commas, semicolons and tabs divide columns; with
    semicolons and tabs, numbers may have a decimal comma. InputError names line, column and value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct the path of the table") from error
    except UnicodeDecodeError as error:
        spreadsheet = path.read_bytes().startswith((b"PK", b"\xd0\xcf\x11\xe0"))
        fault = "a spreadsheet; export it as CSV" if spreadsheet else f"not UTF-8 ({error}); save the table as UTF-8"
        raise InputError(f"{path}: {fault}") from error
    named = re.match(r"sep=([,;\t])\s*?[\r\n]", text)  # by Excel
    first = text[named.end() if named else 0 :].partition("\n")[0]
    divider = named[1] if named else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=divider)
    known, found = {composed(name): name for name in names}, {}
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}; save the table as CSV again") from error
    rows = rows[1:] if named else rows
    header = [cell.lower() for cell in _filled(rows[0][1])] if rows else []
    wrong = [column for column in header if column not in _COLUMNS or header.count(column) > 1]
    if wrong or "name" not in header:
        fault = f"column '{wrong[0][:100]}' is unknown or there twice" if wrong else "has no column 'name'"
        raise InputError(f"{path}: {fault}; columns are {', '.join(_COLUMNS)}")
    for line, cells in rows[1:]:
        if not any(cells):
            continue
        cells = cells[: max(len(header), len(_filled(cells)))]
        if len(cells) != len(header):
            raise InputError(f"{path}: line {line} has {len(cells)} cells, its head {len(header)}; mend the line")
        row = {column: cell for column, cell in zip(header, cells, strict=True) if cell}
        name = _name(row.pop("name", ""), known, by_folder)
        if name is None or name in found:
            fault, cell = "is there twice" if name else "is no image of the domain", cells[header.index("name")]
            raise InputError(f"{path}: line {line}: '{cell[:200]}' {fault}; correct or remove it")
        found[name] = {}
        for column, cell in row.items():
            try:
                found[name][column] = _value(column, cell.replace(",", ".") if divider != "," else cell, cell)
            except ValueError as error:
                point = "; decimals have a point where commas divide columns" * (divider == "," and "," in cell)
                raise InputError(f"{path}: line {line}: {column} = '{cell[:200]}': it must be {error}{point}") from None
    return found


def _filled(cells: list[str]) -> list[str]:
    """Cells up to the last that is not empty: spreadsheets write empty columns too."""
    return cells[: max((place for place, cell in enumerate(cells, 1) if cell), default=0)]


def _name(cell: str, known: dict[str, str], by_folder: bool) -> str | None:
    cell = composed(cell).replace("\\", "/")
    *folders, name = cell.split("/")
    stem = without_ending(name)
    if by_folder and folders:
        some = (part for count in range(len(folders), 0, -1) for part in combinations(folders[-_DEEP:], count))
        return next((known[one] for part in some if (one := "_".join([*part, stem])) in known), None)
    return known.get(name, known.get(stem))


def _value(column: str, cell: str, text: str) -> object:
    """Value of a cell. ValueError: what it must be."""
    if column == "mask":
        return text.replace("\\", "/")
    if column != "pixel_size_nm":
        cell = re.sub(r"(\d)\.0+$", r"\1", cell)  # pandas writes whole numbers so where cells are empty
    if column == "test":
        if cell.lower() not in _YES + _NO:
            raise ValueError("true or false")
        return cell.lower() in _YES
    if column == "page":
        return page_of(int(cell) if cell.isdecimal() else cell)
    if column == "pixel_size_nm":
        return pixel_size_of(FILE if cell == FILE else _float(cell))
    if column == "information_bar" and cell == FILE:
        return FILE
    if not cell.isdecimal() or len(cell) > 9:
        raise ValueError("a whole number from 0" + (f", or {FILE}" if column == "information_bar" else ""))
    return int(cell)


def page_of(value: object) -> Page:
    """Give a page back. ValueError where it is none."""
    if value in ("image", "largest") or (type(value) is int and 1 <= value <= _MOST_PAGE):
        return value
    raise ValueError('a number from 1, "image" or "largest"')


def pixel_size_of(value: object) -> float | str:
    """Give a pixel size in nm, or FILE, back. ValueError where it is none."""
    if value == FILE:
        return FILE
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6:
        return float(value)
    raise ValueError(f'the pixel size in nm, above 0, or "{FILE}"')


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
