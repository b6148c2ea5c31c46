"""Check tile stores before hours of training are spent on them, and show what is in them.

    python -m data.verify stores

Prints a fingerprint of every domain and draws contact_sheet.png beside the stores. Fails if a check fails. On a disk
that cannot be written to, the sheet is left out with a remark; --out says where else to draw it.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m data.verify")

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from common.errors import InputError, exits_cleanly
from common.limits import IGNORED
from data.contact_sheet import draw_contact_sheet
from data.images import cut_tiles
from data.masks import counted, phase_fractions
from data.oddities import oddities
from data.sealed import check_seal, seal_is_intact
from data.store import TILE_STORE, Micrograph, Store, differences, digest


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.verify", description=__doc__.split("\n\n")[0])
    parser.add_argument("stores", type=Path, nargs="+", help="folders of stores, or stores")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the contact sheet; default: beside the first store")
    options = parser.parse_args(arguments)

    paths = _store_files(options.stores)
    stores, problems, warnings = [], [], []
    for path in paths:
        try:
            store = open_intact(path)
        except InputError as error:
            problems.append(str(error))
            continue
        found = check_store(store)
        problems += [f"{path}: {problem}" for problem in found]
        if not found:
            stores.append(store)
            print(fingerprint(store))
            warnings += [f"{path}: {warning}" for warning in oddities(store)]
    for failures, found in zip((problems, warnings), check_together(stores), strict=True):
        failures += found
    if stores:
        sheet = options.out or paths[0].parent / "contact_sheet.png"
        try:
            draw_contact_sheet(stores, sheet)
            print(f"contact sheet: {sheet}")
        except InputError as error:
            if options.out:
                problems.append(str(error))
            else:
                print(f"remark: no contact sheet: {error} --out FILE draws it elsewhere.")
    for warning in warnings:
        print(f"warning: {warning}")
    if problems:
        raise InputError("\n       ".join([f"{len(problems)} checks failed", *problems]))
    print(f"{len(stores)} stores verified")


def open_intact(path: Path) -> Store:
    """Open a store of which every byte is as it was written, else InputError."""
    check_seal(path, TILE_STORE)
    if not seal_is_intact(path):
        raise InputError(f"{path}: bytes have changed since it was written; copy it or run data.prepare again")
    return Store(path)


def check_store(store: Store) -> list[str]:
    """List everything that is wrong inside one store: tiles, masks, digests, the split by native micrograph."""
    problems = _check_tiles(store)
    for micrograph in store.micrographs:
        if micrograph.test and not micrograph.labelled:
            problems.append(f"test micrograph '{micrograph.name}' has no mask")
        if not -1 <= micrograph.fold < store.folds or (micrograph.test and micrograph.fold != -1):
            problems.append(f"micrograph '{micrograph.name}' has fold {micrograph.fold} of {store.folds}")
    for alike in _of_one_image([store]):
        if len({(micrograph.fold, micrograph.test) for _, micrograph in alike}) > 1:
            names = sorted({micrograph.name for _, micrograph in alike})
            problems.append(f"{', '.join(names)} are one image but lie in different folds or in test and training")
    return problems


def _of_one_image(stores: Sequence[Store]) -> list[list[tuple[Store, Micrograph]]]:
    """Group micrographs of one file by its SHA-256, and those of several files that have the same pixels.

    An image that is uniform, such as a black one, is like any other of its kind.
    """
    files, pixels = defaultdict(list), defaultdict(list)
    for store in stores:
        for micrograph, entry in zip(store.micrographs, store.metadata["micrographs"], strict=True):
            files[micrograph.sha256].append((store, micrograph))
            pixels[entry["image_digest"]].append((store, micrograph))
    several = [alike for alike in pixels.values() if len({micrograph.sha256 for _, micrograph in alike}) > 1]
    shown = [np.ptp(store.image(micrograph.index)) > 0 for ((store, micrograph), *_) in several]
    return [*files.values(), *(alike for alike, varied in zip(several, shown, strict=True) if varied)]


def _check_tiles(store: Store) -> list[str]:
    """Compare every tile with its micrograph cut again, and the micrographs with their digests."""
    problems = []
    with h5py.File(store.path, "r", locking=False) as file:
        tiles = {name: file[f"tiles/{name}"] for name in ("image", "mask", "labelled", "micrograph", "position")}
        count, side = len(store.tile_micrograph), store.tile + 2 * store.overlap
        for name in ("image", "mask"):
            if tiles[name].shape != (count, side, side) or tiles[name].dtype != np.uint8:
                return [f"tiles/{name} is {tiles[name].dtype} {tiles[name].shape}, not {(count, side, side)}"]
        labelled = [store.micrographs[micrograph].labelled for micrograph in store.tile_micrograph]
        if not np.array_equal(tiles["labelled"], labelled):
            problems.append("tiles/labelled disagrees with the micrographs")
        for micrograph, entry in zip(store.micrographs, store.metadata["micrographs"], strict=True):
            pixels = {"image": store.image(micrograph.index)}
            if micrograph.labelled:
                pixels["mask"] = store.mask(micrograph.index)
                known = ", ".join(map(str, range(store.phases - 1)))
                if not np.isin(pixels["mask"], (*range(store.phases), IGNORED)).all():
                    problems.append(
                        f"mask of '{micrograph.name}' has values other than {known} and {store.phases - 1}, and "
                        f"{IGNORED} for ignored pixels"
                    )
            own = np.flatnonzero(store.tile_micrograph == micrograph.index)
            for name, array in pixels.items():
                cut, positions = cut_tiles(array, store.tile, store.overlap)
                if array.shape != (micrograph.height, micrograph.width) or digest(array) != entry[f"{name}_digest"]:
                    problems.append(f"{name} of '{micrograph.name}' is not what was prepared")
                if not np.array_equal(positions, store.tile_position[own]) or any(
                    not np.array_equal(tiles[name][index], tile) for index, tile in zip(own, cut, strict=True)
                ):
                    problems.append(f"{name} tiles of '{micrograph.name}' differ from the micrograph cut again")
    return problems


def check_together(stores: list[Store]) -> tuple[list[str], list[str]]:
    """List problems and warnings among stores that are used together: preparation, images in several of them."""
    problems, warnings = [], []
    for store in stores[1:]:
        if different := differences(store.preparation, stores[0].preparation, "here", "there"):
            problems.append(
                f"{store.path} was prepared otherwise than {stores[0].path} ({different}); prepare them from one "
                "domains.toml"
            )
    places = [{(store.domain, one.parent, one.test) for store, one in alike} for alike in _of_one_image(stores)]
    for uses in dict.fromkeys(map(frozenset, places)):
        if len({domain for domain, _, _ in uses}) < 2:
            continue
        names = ", ".join(f"{domain}/{name}{' (test)' if test else ''}" for domain, name, test in sorted(uses))
        if len({test for _, _, test in uses}) == 2:
            problems.append(f"one image for testing here and training there: {names}; remove it from one")
        else:
            warnings.append(f"one image in several domains: {names}")
    return problems, warnings


def fingerprint(store: Store) -> str:
    """Describe a domain in a few lines: counts, grey levels (0..255), phase fractions of annotated tile centres."""
    grey = np.zeros(256, np.int64)
    for micrograph in store.micrographs:
        mask = store.mask(micrograph.index) if micrograph.labelled else None
        grey += np.bincount(counted(store.image(micrograph.index), mask).ravel(), minlength=256)
    levels, cumulated = np.arange(256), np.cumsum(grey) / grey.sum()
    mean = (grey * levels).sum() / grey.sum()
    deviation = np.sqrt((grey * (levels - mean) ** 2).sum() / grey.sum())
    percentiles = ", ".join(f"{np.searchsorted(cumulated, part):d}" for part in (0.01, 0.25, 0.5, 0.75, 0.99))
    count = len(store.micrographs)
    annotated = sum(micrograph.labelled for micrograph in store.micrographs)
    test = sum(micrograph.test for micrograph in store.micrographs)
    folds = [sum(micrograph.fold == fold for micrograph in store.micrographs) for fold in range(store.folds)]
    lines = [
        f"{store.domain} ({store.fingerprint[:12]})",
        f"  micrographs     {count} ({annotated} annotated, {test} for testing), folds {folds or 'none'}",
        f"  tiles           {len(store.tile_micrograph)}, {len(store.training_tiles(None, False))} for "
        f"training, {store.tile} + 2 x {store.overlap} px at scale {store.scale:g}",
        f"  grey levels     mean {mean:.1f}, standard deviation {deviation:.1f}, "
        f"percentiles 1, 25, 50, 75, 99: {percentiles}",
        *(f"  scale           {line}" for line in _scales(store)),
    ]
    shown = {1: ""} if store.phases == 2 else {phase: f"{name}, " for phase, name in enumerate(store.classes)}
    for name, of_test in (("training", False), ("testing", True)):
        fractions = _phase_fractions(store, of_test)
        for phase, of_phase in shown.items() if len(fractions) else ():
            histogram = np.histogram(fractions[:, phase], bins=10, range=(0, 1))[0]
            bars, mean = " ".join(map(str, histogram)), np.mean(fractions[:, phase])
            lines.append(f"  phase fraction  {of_phase}{name} tiles: mean {mean:.3f}; by tenths: {bars}")
    return "\n".join(lines)


def _scales(store: Store) -> list[str]:
    """Pixel size and bar of all native micrographs, those together that have the same."""
    groups = defaultdict(dict)
    for one in store.micrographs:
        if one.pixel_size_nm is not None:
            groups[one.pixel_size_nm, one.information_bar or 0][one.parent] = None
    lines = []
    for (size, bar), names in sorted(groups.items()):
        factor = size / store.reference_pixel_size_nm * store.scale
        named = ", ".join(names) if len(groups) > 1 else "all"
        lines.append(f"{size:.4g} nm a pixel, resized {factor:.3g} times, {bar} rows cut off: {named}")
    return lines


def _phase_fractions(store: Store, of_test: bool) -> np.ndarray:
    """Fractions of the phases in the annotated tile centres, float64 (n, C)."""
    centre = slice(store.overlap, store.overlap + store.tile)
    fractions = []
    for tile, index in enumerate(store.tile_micrograph):
        micrograph = store.micrographs[index]
        if micrograph.labelled and micrograph.test == of_test:
            fractions.append(phase_fractions(store.tile_mask(tile)[centre, centre], store.phases))
    return np.array([of_tile for of_tile in fractions if not np.isnan(of_tile).any()])


def _store_files(arguments: list[Path]) -> list[Path]:
    paths = []
    for argument in arguments:
        found = sorted(argument.glob("*.h5")) if argument.is_dir() else [argument]
        if not found:
            raise InputError(f"{argument}: no store (*.h5) in this folder; run data.prepare with --out {argument}")
        paths += found
    return paths


if __name__ == "__main__":
    main()
