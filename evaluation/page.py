"""HTML pages that stand alone in one file, pictures included."""

import base64
import html
import io
from collections.abc import Callable, Iterable

import cv2
import numpy as np

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }
td, th { padding: .25em .7em; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap }
th { border-bottom: 2px solid #222 } tr.first td { border-top: 2px solid #aaa }
th { white-space: normal; vertical-align: bottom } table.wrapped td:nth-child(2) { white-space: normal }
img { max-width: 100%; border: 1px solid #eee } p.note { color: #555; max-width: 50em }
pre { background: #f6f6f6; padding: .8em; overflow-x: auto; font-size: 12px }
div.beside { display: flex; flex-wrap: wrap; gap: .5em }
div.beside img { flex: 1 1 300px; min-width: 0; max-width: 580px }
p.warning { white-space: pre-line; background: #fff3d6; border-left: 4px solid #e67800; padding: .6em 1em }
"""


def drawn(draw: Callable, *arguments: object) -> str:
    """The picture that `draw(file, *arguments)` writes, inside the page."""
    file = io.BytesIO()
    draw(file, *arguments)
    return image(file.getvalue())


def image(png: bytes, description: str = "") -> str:
    """The picture inside the page, as JPEG: micrographs are noise, four times as large in PNG."""
    if not png:
        return ""
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    encoded = base64.b64encode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]).decode()
    return f"<img src='data:image/jpeg;base64,{encoded}' alt='{text(description)}'>"


def table(header: list[str], rows: Iterable[list[str]], wrapped: bool = False) -> str:
    """A table, with a line above each row whose first cell is new; wrapped: the second column may break."""
    lines = ["<tr>" + "".join(f"<th>{text(cell)}</th>" for cell in header) + "</tr>"]
    before = None
    for row in rows:
        # A line above each new domain or experiment.
        opening = "<tr>" if row[0] == before else "<tr class='first'>"
        lines.append(opening + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>")
        before = row[0]
    return f"<table{' class=wrapped' if wrapped else ''}>" + "\n".join(lines) + "</table>"


def whole(title: str, sections: list[str]) -> str:
    """The whole page of sections of HTML."""
    head = f"<meta charset='utf-8'><title>{text(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'>{head}\n<h1>{text(title)}</h1>\n" + "\n".join(sections) + "\n</html>\n"


def text(value: object) -> str:
    """The value as text in HTML."""
    return html.escape(str(value))
