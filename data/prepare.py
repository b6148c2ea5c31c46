"""Micrographs to tile stores (paper Section 2.2).

    python -m data.prepare domains.toml --out stores
    python -m data.prepare domains.toml --out stores --domain source --domain t3 --force

makes a store of each domain of a domains.toml (docs/data_format.md).
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m data.prepare")

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.arguments import positive
from common.errors import InputError, exits_cleanly
from common.memory import free_memory
from common.parallel import ahead
from data.bars import bar_rows, bars_left
from data.decision import Decision, read_decision, recorded, undecided
from data.domains import AUTO, Domain, NativeMicrograph, Options, read_domains
from data.images import crop_information_bar, prepare_mask, prepare_micrograph, read_image, warn_of_enlargement
from data.levels import grey_levels, matched
from data.mask_readings import MaskValue, Values
from data.masks import UnknownValues, counted, read_mask
from data.sizes import confirm, fields_of_view, odd_sizes
from data.sources import Described, describe, same_files
from data.store import Store, StoreWriter, store_path
from data.survey import depth_of, nearly_black, warn_of_black

_MIRRORED = 0.5  # share of the tiles beyond the micrographs: more is a waste
_NOT_ALWAYS = (  # parameters of stores that use them
    "match", "depth", "page", "ignore", "threshold", "instances", "classes", "values", "foreground", "background",
)  # fmt: skip
WORKERS = min(4, os.cpu_count())


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description="Micrographs to HDF5 tile stores.")
    parser.add_argument("domains", type=Path, help="the domains.toml (docs/data_format.md)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the stores, made if it does not exist")
    parser.add_argument("--domain", action="append", help="prepare this domain only; may be given several times")
    parser.add_argument("--force", action="store_true", help="replace stores that were prepared differently")
    parser.add_argument(
        "--workers", type=positive, default=WORKERS, metavar="N",
        help="micrographs that are read at once, each of which is in memory (default here: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--gap", type=Path, action="append", default=[], metavar="FILE",
        help="gap.json of evaluation.gap: polarity and grey levels that it recommends for its target",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="write odd sizes without asking, as scripts need it")
    options = parser.parse_args(arguments)

    cutting, domains = read_domains(options.domains)
    decisions = {decision.domain: decision for decision in map(read_decision, options.gap)}
    for name in (*(options.domain or domains), *decisions):
        if name not in domains:
            raise InputError(f"{options.domains}: there is no domain {name} in it, only {', '.join(domains)}")
    reference = None if options.yes else domains[cutting.reference]
    for name in options.domain or domains:
        domain, decision = domains[name], decisions.get(name)
        if domain.invert == AUTO and decision is None:
            decision = recorded(store_path(options.out, name))
        if decision:
            domain = decision.apply(domain, domains, options.domains)
        elif domain.invert == AUTO:
            domain = undecided(domain)
        like = domains.get(domain.match)
        prepare_domain(cutting, domain, options.out, options.force, options.workers, like, decision, reference)


def prepare_domain(
    options: Options,
    domain: Domain,
    out: Path | str,
    force: bool = False,
    workers: int = WORKERS,
    like: Domain | None = None,
    decision: Decision | None = None,
    ask_beside: Domain | None = None,
) -> Path:
    """Write the store of one domain, or keep the one that is there if it is the same. Returns its path.

    `workers` micrographs are read at once, and one more is in memory; the store is the same for any number. Where they
    are enlarged, each has its share of the memory that is free now. like: the domain whose grey levels it is given.
    decision: what the domain was changed by, for the record. ask_beside: the reference, where the user is to be asked
    before an odd store is written.
    Raises InputError if a different store is there and not `force`, and for an unusable micrograph or mask.
    """
    path = store_path(out, domain.name)
    described = describe(options, domain, workers)
    provenance = [one.source for one in described]
    depth, as_before = _depth(path, described, workers)
    levels = None if like is None else levels_of(options, like, workers)
    parameters = _parameters(options, domain, levels, depth) | ({"gap": decision.as_parameters()} if decision else {})
    if _is_there(path, parameters, provenance, force, as_before):
        return path
    if ask_beside:
        reference = []
        with suppress(InputError):  # which is said where that domain is prepared
            reference = describe(options, ask_beside, workers, quiet=True)
        confirm(odd_sizes(options, domain, described, reference))
    reading = _reading(domain, described, depth, workers, options.phases)
    names, bars, black = set(), [], []
    with StoreWriter(path, options.tile, options.overlap) as writer, closing(reading):
        progress = tqdm(reading, desc=domain.name, unit="micrograph", total=len(domain.micrographs))
        for one, read in zip(described, progress, strict=True):
            native = one.native
            image, mask, bar, dark = _result(read, native, domain, described)
            black += [native.image] * dark
            image = image if levels is None else matched(image, levels)
            fields = fields_of_view(image.shape, options)
            below = len(image) - max(rows.indices(len(image))[1] for _, (rows, _) in fields)
            bars.append(bar + one.information_bar if bar * one.factor > below else 0)
            for suffix, field in fields:
                name = native.name + suffix
                if name in names:
                    raise InputError(f"{native.image}: its field of view {name} is another's name too; rename the file")
                names.add(name)
                writer.add(image[field], None if mask is None else mask[field], name=name, parent=native.name)
        writer.finish(parameters, provenance)
        Store(writer.partial, name=path.name)  # what would be refused later replaces nothing
        placed = False
        while not placed and not _is_there(path, parameters, provenance, force):  # by another process, meanwhile
            placed = writer.place(replace=force)
    if placed:
        _summarise(Store(path))
        _warn_of_bars(domain.name, described, bars)
        warn_of_black(black)
    return path


def levels_of(options: Options, domain: Domain, workers: int = WORKERS) -> np.ndarray:
    """Share of a domain's pixels at each grey level, float64 (256,), all its micrographs together at working scale."""
    described = describe(options, domain, workers, quiet=True)
    depth, _ = depth_of([(one.native.image, one.native.page, one.information_bar) for one in described], workers)
    with closing(_reading(domain, described, depth, workers, options.phases)) as reading:
        progress = tqdm(reading, desc=f"grey levels of {domain.name}", unit="micrograph", total=len(domain.micrographs))
        return grey_levels(counted(*read.result()[:2]) for read in progress)


def _depth(path: Path, described: list[Described], workers: int) -> tuple[int | None, bool]:
    """Depth of a domain's camera, and whether a store without one is as good; from a store of the same files, or read.

    As of depth_of.
    """
    with suppress(InputError, KeyError, OSError):
        there = Store(path).metadata
        if "depth" in there["parameters"] and same_files(there["sources"], [one.source for one in described]):
            return there["parameters"]["depth"], True
    return depth_of([(one.native.image, one.native.page, one.information_bar) for one in described], workers)


def _reading(
    domain: Domain, described: list[Described], depth: int | None, workers: int, phases: int
) -> Iterator[Future]:
    """Read the micrographs of a domain ahead, `workers` at once; each result is what read_native returns."""
    largest = max(described, key=lambda one: one.factor)
    warn_of_enlargement(largest.factor, largest.origin)
    share = free_memory() // min(workers, len(described))
    read = partial(read_native, domain=domain, depth=depth, memory=share, phases=phases)
    return ahead(read, described, workers)


def read_native(
    described: Described, domain: Domain, depth: int | None, memory: int, phases: int = 2
) -> tuple[np.ndarray, np.ndarray | None, int, bool]:
    """Read a native micrograph and its mask (None without), both uint8 (h, w) at working scale, and look for a bar.

    Returns its rows in the native micrograph too, beyond those that are cut off, and if the micrograph is nearly black.
    depth: of the domain's camera, as of read_image; memory: as of prepare_micrograph.
    """
    native, bar = described.native, described.information_bar
    grey = read_image(native.image, depth, native.page)
    try:
        image = prepare_micrograph(grey, described.factor, domain.invert, bar, described.origin, memory)
    except InputError as error:
        raise InputError(f"{native.image}: {error}") from error
    shown = crop_information_bar(grey, bar)
    more, dark = bar_rows(shown), nearly_black(native.image, native.page, shown)
    if native.mask is None:
        return image, None, more, dark
    mask = read_mask(native.mask, domain.values, grey.shape, bar, native.name, native.page)
    return image, prepare_mask(mask, described.factor, phases), more, dark


def _result(
    read: Future, native: NativeMicrograph, domain: Domain, described: list[Described]
) -> tuple[np.ndarray, np.ndarray | None, int, bool]:
    """Wait for what read_native returns. An unknown value's message has those of all masks of the domain."""
    try:
        return read.result()
    except UnknownValues as error:
        others = [error]
        for one in described:
            if one.native.mask and one.native is not native:
                try:
                    of = one.native
                    read_mask(of.mask, domain.values, one.shape, one.information_bar, of.name, of.page)
                except UnknownValues as other:
                    others.append(other)
                except InputError:
                    continue  # the first bad mask is the one that is named
        raise UnknownValues.of_all(others) from None


def _parameters(options: Options, domain: Domain, levels: np.ndarray | None, depth: int | None) -> dict:
    """Everything that decides what a store holds, in the types that JSON gives back."""
    given = {} if levels is None else {"match": domain.match, "levels": levels.tolist()}
    given |= {"depth": depth} if depth else {}
    given |= {"page": domain.page} if domain.page else {}
    cutting = asdict(options) | {"field_of_view": options.field_of_view and list(options.field_of_view)}
    classes = list(cutting.pop("classes"))
    given |= {"classes": classes} if classes else {}
    own = {key: getattr(domain, key) for key in ("pixel_size_nm", "information_bar", "invert", "folds")}
    return {"domain": domain.name} | cutting | own | _of_masks(domain.values, classes) | given


def _of_masks(values: Values | None, classes: list[str]) -> dict:
    """Parameters of a domain's masks: the two that there always are, or those of named phases, and what is used."""
    values = values or Values((), None)
    if values.more:
        found = {"values": dict(zip(classes, map(_json, values.of_phases), strict=True))}
    else:
        found = {key: _json(getattr(values, key)) for key in ("foreground", "background")}
    used = {"ignore": _json(values.ignore), "threshold": values.threshold, "instances": values.instances}
    return found | {key: value for key, value in used.items() if value}


def _json(values: tuple[MaskValue, ...] | None) -> list | None:
    return values if values is None else [list(value) if isinstance(value, tuple) else value for value in values]


def _is_there(path: Path, parameters: dict, provenance: list[dict], force: bool, as_before: bool = False) -> bool:
    """Tell if the store that is asked for is there. InputError where another one is, which only `force` replaces.

    as_before: one without a common depth holds the same pixels.
    """
    if not path.exists():
        return False
    different = _differences(path, parameters, provenance, as_before)
    if different and not force:
        raise InputError(f"{path}: differs in {', '.join(different)}; use another --out, or --force")
    if not different:
        print(f"{path.stem}: {path} is up to date, kept")
    return not different


def _differences(path: Path, parameters: dict, provenance: list[dict], as_before: bool) -> list[str]:
    """List what an existing store was prepared with otherwise than asked for now.

    What counts of files is their content and their name without folder and ending: they may have been moved.
    """
    try:
        store = Store(path)
        same = same_files(store.metadata["sources"], provenance)
    except (InputError, KeyError):
        return ["its format, or it is damaged"]
    there = store.metadata["parameters"]
    asked = {key: None for key in _NOT_ALWAYS} | parameters
    if as_before and "depth" not in there:
        del asked["depth"]
    different = [key for key, value in asked.items() if there.get(key) != value]
    different += ["the image or mask files, their split or how they are read"] * (not same)
    # As an older version named more than ten fields.
    named_twice = len({micrograph.name for micrograph in store.micrographs}) < len(store.micrographs)
    return different + ["the names of its fields of view, of which two are alike"] * named_twice


def _warn_of_bars(domain: str, described: list[Described], bars: list[int]) -> None:
    names, cut = [one.native.name for one in described], [one.information_bar for one in described]
    said, rows = bars_left(names, bars, cut, "micrographs")
    each = 'the rows of each in a table (`micrographs`), or "file" where their files say it'
    if said:
        give = f"information_bar = {rows}" if rows else each
        print(f"warning: {domain}: {said}, and are trained on. If so, give {give}", file=sys.stderr)


def _summarise(store: Store) -> None:
    micrographs = store.micrographs
    labelled = sum(micrograph.labelled for micrograph in micrographs)
    test = sum(micrograph.test for micrograph in micrographs)
    tiles, size = len(store.tile_micrograph), store.path.stat().st_size / 1e6
    print(
        f"{store.domain}: {len(micrographs)} micrographs ({labelled} annotated, {test} for testing, "
        f"{store.folds} folds), {tiles} tiles, {size:.1f} MB in {store.path}"
    )
    mirrored = 1 - sum(one.height * one.width for one in micrographs) / (tiles * store.tile**2)
    if mirrored > _MIRRORED:
        sides = f"{max(one.height for one in micrographs)} x {max(one.width for one in micrographs)}"
        print(
            f"warning: {store.domain}: {100 * mirrored:.0f} % of its tiles are beyond the micrographs, and mirror "
            f"them: tile = {store.tile}, and the micrographs have up to {sides} px at working scale. A smaller "
            "`tile` in [options] takes less time",
            file=sys.stderr,
        )
    if labelled and not test and not store.folds:
        print(f"{store.domain}: neither folds nor test micrographs, so no model can be evaluated on it")


if __name__ == "__main__":
    main()
