"""The contact sheet: some micrographs of every domain, their phases tinted, with the fraction of each."""

from pathlib import Path

import cv2
import numpy as np

from common.files import write_figure
from common.limits import IGNORED
from data.masks import phase_fractions
from data.pictures import HATCH, hatched, palette_of, tint
from data.store import Micrograph, Store

_MICROGRAPHS_SHOWN = 3  # a domain
_SHOWN_SIDE, _DETAIL_SIDE = 700, 256  # px at working scale
_FRAME = (230, 30, 30)
_OPACITY = 0.35


def draw_contact_sheet(stores: list[Store], path: Path) -> None:
    """Draw a row a domain, as in the paper's Figure 1: micrographs, tinted by their masks, and a detail."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = _MICROGRAPHS_SHOWN + 1
    figure = Figure(figsize=(3.6 * columns, 3.9 * len(stores) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(stores), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, store in zip(axes, stores, strict=True):
        # annotated ones first: they show most
        order = sorted(store.micrographs, key=lambda micrograph: (not micrograph.labelled, micrograph.index))
        chosen = [order[place] for place in np.unique(np.linspace(0, len(order) - 1, _MICROGRAPHS_SHOWN).astype(int))]
        for axis, micrograph in zip(row, chosen, strict=False):
            axis.imshow(_overlay(store, micrograph, framed=micrograph is chosen[0]), interpolation="antialiased")
            axis.set_title(_title(store, micrograph), fontsize=8, parse_math=False)
        rows, detail_columns = _detail(chosen[0])
        detail = store.image(chosen[0].index)[rows, detail_columns]
        row[-1].imshow(detail, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        title = f"detail of {chosen[0].name}\n{detail.shape[1]} x {detail.shape[0]} px"
        row[-1].set_title(title, fontsize=8, parse_math=False)
    palettes = dict.fromkeys(palette_of(store.classes) for store in stores)
    legend = [(palette.names[phase], colour) for palette in palettes for phase, colour in palette.tints.items()]
    if any("ignore" in store.metadata["parameters"] for store in stores):
        legend.append(("hatched: does not count", HATCH))
    patches = [Patch(color=np.divide(colour, 255), label=name) for name, colour in legend]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)
    write_figure(path, figure)


def _title(store: Store, micrograph: Micrograph) -> str:
    use = "test" if micrograph.test else "training" if micrograph.fold < 0 else f"fold {micrograph.fold}"
    text = f"{store.domain}: {micrograph.name}\n{micrograph.width} x {micrograph.height} px, {use}"
    if not micrograph.labelled:
        return f"{text}\nnot annotated"
    mask = store.mask(micrograph.index)
    shares = phase_fractions(mask, store.phases)
    if np.isnan(shares).any():
        return f"{text}\nnothing of it counts"
    named = [f"{name} {100 * share:.1f} %" for name, share in zip(store.classes, shares, strict=True)]
    lines = [", ".join(named[place : place + 2]) for place in range(0, len(named), 2)]
    ignored = np.mean(mask == IGNORED)
    return "\n".join([text, *lines]) + (f" ({100 * ignored:.1f} % does not count)" if ignored else "")


def _overlay(store: Store, micrograph: Micrograph, framed: bool) -> np.ndarray:
    image = store.image(micrograph.index)
    shrink = max(1.0, max(image.shape) / _SHOWN_SIDE)
    size = (max(1, round(image.shape[1] / shrink)), max(1, round(image.shape[0] / shrink)))
    picture = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2RGB)
    if micrograph.labelled:
        mask = cv2.resize(store.mask(micrograph.index), size, interpolation=cv2.INTER_NEAREST)
        for phase, colour in palette_of(store.classes).tints.items():
            tint(picture, mask == phase, colour, _OPACITY)
            outlines = cv2.findContours((mask == phase).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
            cv2.drawContours(picture, outlines, -1, colour, 1)
        hatched(picture, mask)
    if framed:
        rows, columns = _detail(micrograph)
        corners = [
            (round(column / shrink), round(row / shrink))
            for row, column in ((rows.start, columns.start), (rows.stop, columns.stop))
        ]
        cv2.rectangle(picture, corners[0], corners[1], _FRAME, 2)
    return picture


def _detail(micrograph: Micrograph) -> tuple[slice, slice]:
    starts = [max(0, (side - _DETAIL_SIDE) // 2) for side in (micrograph.height, micrograph.width)]
    return tuple(slice(start, start + _DETAIL_SIDE) for start in starts)
