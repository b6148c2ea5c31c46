"""Micrographs to tile stores (paper Section 2.2).

    python -m data.prepare domains.toml --out stores
    python -m data.prepare domains.toml --out stores --domain source --domain t3 --force

makes a store of each domain of a domains.toml (docs/data_format.md).
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m data.prepare")

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.arguments import positive
from common.errors import InputError, exits_cleanly
from common.files import sha256_of
from common.memory import free_memory
from common.parallel import ahead
from data.decision import Decision, read_decision, recorded, undecided
from data.domains import AUTO, Domain, NativeMicrograph, Options, read_domains
from data.images import (
    crop_information_bar,
    prepare_mask,
    prepare_micrograph,
    read_image,
    read_mask,
    warn_of_enlargement,
)
from data.levels import grey_levels, matched
from data.store import Store, StoreWriter, store_path

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
    options = parser.parse_args(arguments)

    cutting, domains = read_domains(options.domains)
    decisions = {decision.domain: decision for decision in map(read_decision, options.gap)}
    for name in (*(options.domain or domains), *decisions):
        if name not in domains:
            raise InputError(f"{options.domains}: there is no domain {name} in it, only {', '.join(domains)}")
    for name in options.domain or domains:
        domain, decision = domains[name], decisions.get(name)
        if domain.invert == AUTO and decision is None:
            decision = recorded(store_path(options.out, name))
        if decision:
            domain = decision.apply(domain, domains, options.domains)
        elif domain.invert == AUTO:
            domain = undecided(domain)
        like = domains.get(domain.match)
        prepare_domain(cutting, domain, options.out, options.force, options.workers, like, decision)


def prepare_domain(
    options: Options,
    domain: Domain,
    out: Path | str,
    force: bool = False,
    workers: int = WORKERS,
    like: Domain | None = None,
    decision: Decision | None = None,
) -> Path:
    """Write the store of one domain, or keep the one that is there if it is the same. Returns its path.

    `workers` micrographs are read at once, and one more is in memory; the store is the same for any number. Where they
    are enlarged, each has its share of the memory that is free now. like: the domain whose grey levels it is given.
    decision: what the domain was changed by, for the record.
    Raises InputError if a different store is there and not `force`, and for an unusable micrograph or mask.
    """
    path = store_path(out, domain.name)
    levels = None if like is None else levels_of(options, like, workers)
    parameters = _parameters(options, domain, levels) | ({"gap": decision.as_parameters()} if decision else {})
    describing = ahead(partial(_provenance, root=domain.root), domain.micrographs, workers)
    provenance = [found.result() for found in describing]
    if _is_there(path, parameters, provenance, force):
        return path
    reading = _reading(options, domain, workers)
    names = set()
    with StoreWriter(path, options.tile, options.overlap) as writer, closing(reading):
        progress = tqdm(reading, desc=domain.name, unit="micrograph", total=len(domain.micrographs))
        for native, read in zip(domain.micrographs, progress, strict=True):
            image, mask = read.result()
            image = image if levels is None else matched(image, levels)
            for suffix, field in fields_of_view(image.shape, options):
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
    return path


def levels_of(options: Options, domain: Domain, workers: int = WORKERS) -> np.ndarray:
    """Share of a domain's pixels at each grey level, float64 (256,), all its micrographs together at working scale."""
    with closing(_reading(options, domain, workers)) as reading:
        progress = tqdm(reading, desc=f"grey levels of {domain.name}", unit="micrograph", total=len(domain.micrographs))
        return grey_levels(read.result()[0] for read in progress)


def _reading(options: Options, domain: Domain, workers: int) -> Iterator[Future]:
    """Read the micrographs of a domain ahead, `workers` at once; each result is what read_native returns."""
    factor = domain.pixel_size_nm / options.reference_pixel_size_nm * options.scale
    origin = (
        f"pixel_size_nm = {domain.pixel_size_nm:g} of {domain.name}, {options.reference_pixel_size_nm:g} of the "
        f"reference {options.reference}, and scale = {options.scale:g}"
    )
    warn_of_enlargement(factor, origin)
    share = free_memory() // min(workers, len(domain.micrographs))
    reader = partial(read_native, domain=domain, factor=factor, origin=origin, memory=share)
    return ahead(reader, domain.micrographs, workers)


def read_native(
    native: NativeMicrograph, domain: Domain, factor: float, origin: str, memory: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a native micrograph and its mask (None without), both uint8 (h, w) at working scale.

    factor, origin, memory: as of prepare_micrograph.
    """
    grey = read_image(native.image)
    try:
        image = prepare_micrograph(grey, factor, domain.invert, domain.information_bar, origin, memory)
    except InputError as error:
        raise InputError(f"{native.image}: {error}") from error
    if native.mask is None:
        return image, None
    mask = read_mask(native.mask, domain.foreground, domain.background)
    cropped = crop_information_bar(grey, domain.information_bar).shape
    if mask.shape == grey.shape:
        mask = crop_information_bar(mask, domain.information_bar)
    if mask.shape != cropped:
        raise InputError(
            f"{native.mask}: {mask.shape[1]} x {mask.shape[0]} px, but {native.image.name} has "
            f"{grey.shape[1]} x {grey.shape[0]} (information bar {domain.information_bar}); "
            "export the mask at the micrograph's size"
        )
    return image, prepare_mask(mask, factor)


def fields_of_view(shape: tuple[int, int], options: Options) -> list[tuple[str, tuple[slice, slice]]]:
    """Crops of a working-scale micrograph: (name suffix, (rows, columns) slices), as many as fit, centred.

    The study crops its light-optical micrographs to the field of the electron-optical ones (Section 2.2).
    A side that is smaller than the field is kept whole. Suffixes are row and column in as many digits as the largest
    number has, so no two are alike: _00 .. _11, or _0000 .. _1111.
    """
    if options.field_of_view is None:
        return [("", (slice(None), slice(None)))]
    width, height = (round(side * options.scale) for side in options.field_of_view)
    rows, columns = _fields(shape[0], height), _fields(shape[1], width)
    if len(rows) == len(columns) == 1:
        return [("", (rows[0], columns[0]))]
    digits = len(str(max(len(rows), len(columns)) - 1))
    return [
        (f"_{row:0{digits}}{column:0{digits}}", (rows[row], columns[column]))
        for row in range(len(rows))
        for column in range(len(columns))
    ]


def _fields(side: int, field: int) -> list[slice]:
    count = max(1, side // field)
    size = min(side, field)
    first = (side - count * size) // 2
    return [slice(first + number * size, first + (number + 1) * size) for number in range(count)]


def _parameters(options: Options, domain: Domain, levels: np.ndarray | None) -> dict:
    """Everything that decides what a store holds, in the types that JSON gives back."""
    given = {} if levels is None else {"match": domain.match, "levels": levels.tolist()}
    colours = {
        key: values if values is None else [list(value) if isinstance(value, tuple) else value for value in values]
        for key, values in (("foreground", domain.foreground), ("background", domain.background))
    }
    cutting = asdict(options) | {"field_of_view": options.field_of_view and list(options.field_of_view)}
    own = {key: getattr(domain, key) for key in ("pixel_size_nm", "information_bar", "invert", "folds")}
    return {"domain": domain.name} | cutting | own | colours | given


def _provenance(native: NativeMicrograph, root: Path) -> dict:
    try:
        sha256, mask_sha256 = sha256_of(native.image), native.mask and sha256_of(native.mask)
    except OSError as error:
        message = f"{error.filename}: cannot be read ({error.strerror}); check it and its permissions"
        raise InputError(message) from error
    return {
        "name": native.name,
        "file": Path(os.path.relpath(native.image, root)).as_posix(),
        "sha256": sha256,
        "mask_file": native.mask and Path(os.path.relpath(native.mask, root)).as_posix(),
        "mask_sha256": mask_sha256,
        "fold": native.fold,
        "test": native.test,
    }


def _is_there(path: Path, parameters: dict, provenance: list[dict], force: bool) -> bool:
    """Tell if the store that is asked for is there. InputError where another one is, which only `force` replaces."""
    if not path.exists():
        return False
    different = _differences(path, parameters, provenance)
    if different and not force:
        raise InputError(f"{path}: differs in {', '.join(different)}; use another --out, or --force")
    if not different:
        print(f"{path.stem}: {path} is up to date, kept")
    return not different


def _differences(path: Path, parameters: dict, provenance: list[dict]) -> list[str]:
    """List what an existing store was prepared with otherwise than asked for now.

    What counts of files is their content and their name without folder and ending: they may have been moved.
    """
    try:
        store = Store(path)
        parts = [_identities(sources) for sources in (store.metadata["sources"], provenance)]
    except (InputError, KeyError):
        return ["its format, or it is damaged"]
    there = store.metadata["parameters"]
    asked = parameters if "match" in parameters else parameters | {"match": None}
    different = [key for key, value in asked.items() if there.get(key) != value]
    different += ["the image or mask files or their split"] * (parts[0] != parts[1])
    # As an older version named more than ten fields.
    named_twice = len({micrograph.name for micrograph in store.micrographs}) < len(store.micrographs)
    return different + ["the names of its fields of view, of which two are alike"] * named_twice


def _identities(sources: list[dict]) -> list[tuple]:
    keys = ("name", "sha256", "mask_sha256", "fold", "test")
    return sorted(tuple(map(str, (source[key] for key in keys))) for source in sources)


def _summarise(store: Store) -> None:
    micrographs = store.micrographs
    labelled = sum(micrograph.labelled for micrograph in micrographs)
    test = sum(micrograph.test for micrograph in micrographs)
    tiles, size = len(store.tile_micrograph), store.path.stat().st_size / 1e6
    print(
        f"{store.domain}: {len(micrographs)} micrographs ({labelled} annotated, {test} for testing, "
        f"{store.folds} folds), {tiles} tiles, {size:.1f} MB in {store.path}"
    )
    if labelled and not test and not store.folds:
        print(f"{store.domain}: neither folds nor test micrographs, so no model can be evaluated on it")


if __name__ == "__main__":
    main()
