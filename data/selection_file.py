"""The selection file: which training tiles of a target, and which test micrographs, an experiment keeps to.

`python -m evaluation.selection` makes it by pseudo-labels (paper Section 4.3); `train_uda.py --selection` trains on its
tiles only, `evaluate.py --selection` scores its micrographs only. Its fields are in docs/phase_fractions.md.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError, make_folder
from common.files import sha256_of, write_file
from data.store import Store

VERSION = 1
_REMEDY = "Make it with python -m evaluation.selection"


@dataclass(frozen=True)
class Selection:
    """Content of a selection file: `name` is its stem, `digest` its SHA-256.

    `tiles` int64 (n,) are ascending indices of training tiles, `micrographs` names of test micrographs (may be empty).
    """

    name: str
    tiles: np.ndarray
    micrographs: tuple[str, ...]
    digest: str


def read_selection(path: Path | str, store: Store, fold: int | None = None) -> Selection:
    """Read the selection file of a store's domain.

    InputError: no such file, a damaged one, or one of another domain or another version of the store. So is one that
    names no tile, a tile that does not exist or is of the test set or of fold `fold`, or a micrograph outside the test
    set.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no selection ({error.strerror}). {_REMEDY}.") from error
    try:
        entries = json.loads(content)
        version, domain, fingerprint = (entries[key] for key in ("version", "domain", "fingerprint"))
        tiles, micrographs = entries["tiles"], entries["micrographs"]
        if not (all(type(tile) is int for tile in tiles) and all(type(name) is str for name in micrographs)):
            raise TypeError("`tiles` holds other things than integers, or `micrographs` than names")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged selection ({error!r}). {_REMEDY}.") from error
    if version != VERSION:
        raise InputError(f"{path}: selection of version {version}, this program reads {VERSION}. {_REMEDY}.")
    if domain != store.domain:
        raise InputError(f"{path}: selects from '{domain}', {store.path} is '{store.domain}'. Give one of this domain.")
    if fingerprint != store.fingerprint:
        raise InputError(f"{path}: made for another version of {store.path}. Restore that store, or: {_REMEDY}.")
    _check_tiles(path, tiles, store, fold)
    test = {micrograph.name for micrograph in store.micrographs if micrograph.test}
    for name in micrographs:
        if name not in test or micrographs.count(name) > 1:
            raise InputError(
                f"{path}: micrograph '{name}' is named twice or is no test micrograph of {store.path}. {_REMEDY}."
            )
    return Selection(
        path.stem, np.array(sorted(tiles), np.int64), tuple(micrographs), hashlib.sha256(content).hexdigest()
    )


def write_selection(
    path: Path | str, store: Store, fractions: dict[int, float], micrographs: list[str], made_by: dict
) -> None:
    """Write a selection file in one piece. InputError when it cannot be written.

    `fractions`: selected tile -> phase fraction of its pseudo-label; `made_by` tells how it was made, as JSON.
    """
    path = Path(path)
    make_folder(path.parent)
    tiles = sorted(int(tile) for tile in fractions)
    entries = {"version": VERSION, "domain": store.domain, "fingerprint": store.fingerprint, "made_by": made_by}
    entries |= {"tiles": tiles, "tile_phase_fraction": {str(tile): round(float(fractions[tile]), 6) for tile in tiles}}
    entries |= {"micrographs": list(micrographs)}
    write_file(path, json.dumps(entries, indent=1) + "\n")


def selection_digest(path: Path | str | None) -> str | None:
    """SHA-256 of a selection file, by which a run knows it again; None while there is no such file (or none asked)."""
    return sha256_of(path) if path and Path(path).is_file() else None


def _check_tiles(path: Path, tiles: list[int], store: Store, fold: int | None) -> None:
    if not tiles:
        raise InputError(f"{path}: selects no tile. {_REMEDY}, with another --mean or --tiles.")
    count, held_out = len(store.tile_micrograph), store.validation_micrographs(fold)
    outside = [tile for tile in tiles if not 0 <= tile < count]
    if outside:
        raise InputError(f"{path}: tile {outside[0]}, but {store.path} has tiles 0 .. {count - 1}. {_REMEDY}.")
    if len(set(tiles)) < len(tiles):
        raise InputError(f"{path}: names a tile twice. {_REMEDY}.")
    for tile in tiles:
        micrograph = store.micrographs[store.tile_micrograph[tile]]
        if micrograph.test or micrograph.index in held_out:
            place = "the test set" if micrograph.test else f"fold {fold}, which is held out; add --fold {fold}"
            raise InputError(f"{path}: tile {tile} is of '{micrograph.name}', a micrograph of {place}. {_REMEDY}.")
