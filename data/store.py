"""The HDF5 tile store of one domain (layout: docs/data_format.md): `Store` reads it, `StoreWriter` writes it."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from common.errors import LONGEST_NAME, InputError, require_file_name
from common.limits import IGNORED
from data.images import cut_tiles
from data.sealed import Kind, SealedReader, SealedWriter

_LONGEST = LONGEST_NAME + len("_3276732767")  # bytes of a name, with the field of view of a largest micrograph
TILE_STORE = Kind("tile store", schema=1, maker="data.prepare", extended=2)  # 2: phases past two, or IGNORED
MOST_CLASSES = 16
_NAME = re.compile(r"\w([\w .+-]{0,48}[\w+-])?")
TWO_PHASES = ("background", "foreground")  # where a domains.toml names none
_COMPRESSED = {
    "compression": "gzip",
    "compression_opts": 1,
}  # masks shrink to 1 %; images stay raw, 3 times faster


@dataclass(frozen=True)
class Micrograph:
    """A prepared micrograph, with what it has of the native one it was cropped from, its `parent`.

    file, sha256, pixel_size_nm and information_bar are the parent's (the last two None where an older store does not
    say them). fold is -1 outside all folds; height and width are px at working scale, without padding.
    """

    index: int
    name: str
    parent: str
    file: str
    sha256: str
    fold: int
    test: bool
    labelled: bool
    height: int
    width: int
    pixel_size_nm: float | None = None
    information_bar: int | None = None


def store_path(folder: Path | str, domain: str) -> Path:
    """The store of a domain in a folder of stores."""
    return Path(folder) / f"{domain}.h5"


PREPARATION = ("tile", "overlap", "scale", "reference_pixel_size_nm")  # equal where stores are used together
HELD = 1 << 30  # bytes of a domain's tiles that a process keeps in memory


class Store(SealedReader):
    """Read-only tile store. Each process opens the file on first use: a Store may be pickled and forked.

    labels=False makes every access to a mask an error: target training data must have no label path.
    transductive=True counts the images of the test set and of the fold among the training tiles; only without labels.
    name: the name that the file is going to have, where it still has a temporary one.
    Raises InputError if the store is missing, half-written, truncated, damaged or of another schema.
    """

    def __init__(self, path: Path | str, labels: bool = True, transductive: bool = False, name: str | None = None):
        if labels and transductive:
            raise ValueError("held-out micrographs are trained on without their labels only: Store(labels=False)")
        super().__init__(path, TILE_STORE)
        self.labels, self.transductive = labels, transductive
        self._selected, self._held = None, {}
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                text = file["metadata"][()]
                self.tile_micrograph = file["tiles/micrograph"][:]
                self.tile_position = file["tiles/position"][:]
            self.metadata = json.loads(text)
            self.micrographs, parameters = _micrographs(self.metadata), self.metadata["parameters"]
            self.domain: str = parameters["domain"]
            self.tile: int = parameters["tile"]
            self.overlap: int = parameters["overlap"]
            self.scale: float = parameters["scale"]
            self.reference_pixel_size_nm: float = parameters["reference_pixel_size_nm"]
            self.folds: int = parameters["folds"]
            self.classes = classes_of(parameters)
            if not are_names(self.classes):
                raise ValueError(f"classes {str(self.classes)[:100]} are no names of phases")
        except Exception as error:  # damaged bytes make HDF5 and what reads the metadata raise anything
            raise InputError(f"{self.path}: damaged tile store ({error}); run data.prepare again") from error
        if (name or self.path.name) != f"{self.domain}.h5":
            raise InputError(f"{self.path}: holds domain {self.domain!r}; give the file its name, or prepare it again")
        for micrograph in self.micrographs:
            # A field of view's name is longer than its micrograph's.
            require_file_name(micrograph.name, f"{self.path}: not as data.prepare writes it, micrograph", _LONGEST)
        self.fingerprint = hashlib.sha256(text).hexdigest()

    @property
    def preparation(self) -> dict:
        """The values of PREPARATION, which stores and checkpoints that are used together have in common.

        And `classes`, the names of the phases, where domains.toml names them.
        """
        named = {} if self.classes == TWO_PHASES else {"classes": list(self.classes)}
        return {key: getattr(self, key) for key in PREPARATION} | named

    @property
    def phases(self) -> int:
        """Number of phases."""
        return len(self.classes)

    def tile_image(self, index: int) -> np.ndarray:
        """Tile with its context, uint8 (T, T), T = tile + 2 overlap."""
        return self._tile("image", index)

    def tile_mask(self, index: int) -> np.ndarray:
        """Mask of a tile with its context, class indices and IGNORED, uint8 (T, T). InputError without labels."""
        self._require_mask(int(self.tile_micrograph[index]))
        return self._tile("mask", index)

    def hold(self, tiles: np.ndarray, masks: bool) -> None:
        """Keep these tiles, and their masks if `masks`, in memory from now on, where they take less than HELD bytes.

        A study's domain takes 100 MB. Loader workers, which are forked, share what the process that starts them holds.
        """
        names = ("image", "mask") if masks else ("image",)
        if len(tiles) * len(names) * (self.tile + 2 * self.overlap) ** 2 < HELD:
            read = {"image": self.tile_image, "mask": self.tile_mask}
            self._held = {(name, int(index)): read[name](index) for index in tiles for name in names}
            self._close()  # workers open the file themselves

    def image(self, micrograph: int) -> np.ndarray:
        """Whole micrograph at working scale, uint8 (h, w)."""
        return self._read(f"micrographs/{micrograph}/image")

    def mask(self, micrograph: int) -> np.ndarray:
        """Mask of a whole micrograph, class indices and IGNORED, uint8 (h, w). InputError without labels."""
        self._require_mask(micrograph)
        return self._read(f"micrographs/{micrograph}/mask")

    def select(self, tiles: np.ndarray) -> None:
        """Restrict the training tiles to these from now on, as a selection file names them (data.selection_file)."""
        self._selected = tiles

    def training_tiles(self, fold: int | None, labelled: bool) -> np.ndarray:
        """Tiles outside the test set and fold `fold`, int64 (n,), only annotated ones if `labelled`.

        Of a transductive store all tiles; after `select`, those of them that are selected.
        """
        held_out = self.test_micrographs() + self.validation_micrographs(fold)
        if self.transductive:
            held_out = []
        chosen = [
            micrograph.index
            for micrograph in self.micrographs
            if not (micrograph.index in held_out or (labelled and not micrograph.labelled))
        ]
        tiles = np.flatnonzero(np.isin(self.tile_micrograph, chosen))
        return tiles if self._selected is None else np.intersect1d(tiles, self._selected)

    def evaluation_micrographs(self, fold: int | None) -> list[int]:
        """The fixed test set where the domain has one, else the annotated micrographs of fold `fold`."""
        return self.test_micrographs() or self.validation_micrographs(fold)

    def test_micrographs(self) -> list[int]:
        """The micrographs of the fixed test set, annotated ones; empty for a domain without one."""
        return [micrograph.index for micrograph in self.micrographs if micrograph.test]

    def validation_micrographs(self, fold: int | None) -> list[int]:
        """Annotated micrographs of fold `fold`, none of the test set; empty for a domain without folds."""
        if not self.folds or fold is None:
            return []
        if not 0 <= fold < self.folds:
            raise InputError(f"{self.path}: fold {fold} of {self.folds}; choose 0 .. {self.folds - 1}")
        return [micrograph.index for micrograph in self.micrographs if micrograph.fold == fold]

    def _tile(self, name: str, index: int) -> np.ndarray:
        held = self._held.get((name, int(index)))
        return self._read(f"tiles/{name}", index) if held is None else held.copy()

    def _require_mask(self, micrograph: int) -> None:
        name = self.micrographs[micrograph].name
        if not self.labels:
            raise InputError(f"{self.path}: mask of '{name}' asked for, but the store was opened without labels")
        if not self.micrographs[micrograph].labelled:
            raise InputError(f"{self.path}: micrograph '{name}' has no mask; annotate it and run data.prepare again")


class StoreWriter(SealedWriter):
    """Writer of a store under a temporary name, which `finish` completes and `place` renames; any failure removes it.

    Use as a context manager. An OSError on the way (disk full, no permission) becomes an InputError.
    """

    def __init__(self, path: Path | str, tile: int, overlap: int):
        super().__init__(path, TILE_STORE)
        self.tile, self.overlap = tile, overlap
        self.micrographs, self.positions, self._ignores = [], [], False

    def __enter__(self) -> Self:
        super().__enter__()
        with self._disk_errors():
            side = self.tile + 2 * self.overlap
            layout = {"shape": (0, side, side), "maxshape": (None, side, side), "chunks": (1, side, side)}
            self.tile_images = self.file.create_dataset("tiles/image", dtype=np.uint8, **layout)
            self.tile_masks = self.file.create_dataset("tiles/mask", dtype=np.uint8, **_COMPRESSED, **layout)
        return self

    def add(self, image: np.ndarray, mask: np.ndarray | None, **description: str) -> None:
        """Append a micrograph uint8 (h, w), its mask or None, and tiles; `description` goes to metadata."""
        index = len(self.micrographs)
        tiles, positions = cut_tiles(image, self.tile, self.overlap)
        start, stop = len(self.positions), len(self.positions) + len(tiles)
        with self._disk_errors():
            self._reserve(2 * (tiles.nbytes + image.nbytes))
            self.tile_images.resize(stop, axis=0)
            self.tile_images[start:stop] = tiles
            self.tile_masks.resize(stop, axis=0)
            self.file[f"micrographs/{index}/image"] = image
            if mask is not None:  # tiles without a mask take no space: their chunks are never written
                self.tile_masks[start:stop] = cut_tiles(mask, self.tile, self.overlap)[0]
                self.file.create_dataset(f"micrographs/{index}/mask", data=mask, **_COMPRESSED)
                self._ignores |= bool((mask == IGNORED).any())
            self.file.flush()  # so that the file's size, from which _reserve counts, is complete
        self.positions += [(index, row, column) for row, column in positions]
        size = dict(zip(("height", "width"), image.shape, strict=True))
        own = size | {"labelled": mask is not None, "image_digest": digest(image)}
        self.micrographs.append(description | own | {"mask_digest": None if mask is None else digest(mask)})

    def finish(self, parameters: dict, provenance: list[dict]) -> None:
        """Write metadata and seal, under the temporary name (arguments: docs/data_format.md)."""
        positions = np.array(self.positions, np.int64)
        labelled = np.array([micrograph["labelled"] for micrograph in self.micrographs])
        text = json.dumps({"parameters": parameters, "sources": provenance, "micrographs": self.micrographs})
        with self._disk_errors():
            self._reserve(len(text) + 2 * positions.nbytes)
            self.file["tiles/micrograph"] = positions[:, 0]
            self.file["tiles/position"] = positions[:, 1:]
            self.file["tiles/labelled"] = labelled[positions[:, 0]]
            self.file["metadata"] = text
            self._seal(extended=self._ignores or len(parameters.get("classes", TWO_PHASES)) > 2)


def are_names(names: Sequence) -> bool:
    """Tell if these can be the names of phases: 2 .. MOST_CLASSES, different ones, each good for a column or a file."""
    good = all(isinstance(name, str) and _NAME.fullmatch(name) for name in names)
    return good and 2 <= len(names) <= MOST_CLASSES and len({name.casefold() for name in names}) == len(names)


def classes_of(preparation: dict) -> tuple[str, ...]:
    """Names of the phases by class, of a store's parameters or a checkpoint's preparation."""
    return tuple(preparation.get("classes") or TWO_PHASES)


def reported(classes: Sequence[str]) -> dict[str, int]:
    """Phases whose fractions are reported, by the end of the name that they are reported under.

    Of two the second, under no further name.
    """
    return {"": 1} if len(classes) == 2 else {f"_{name}": phase for phase, name in enumerate(classes)}


def phase_of(name: str | None, classes: Sequence[str]) -> int:
    """Class of the phase that --phase names; of two the second without a name. InputError where there is no such."""
    if name is None and len(classes) == 2:
        return 1
    if name not in classes:
        asked = f"--phase {name}: is none of them" if name else "--phase is missing"
        raise InputError(f"{asked}; there are the phases {', '.join(classes)}")
    return list(classes).index(name)


def differences(one: dict, other: dict, in_one: str, in_other: str) -> str:
    """Say in what two preparations differ, of stores or checkpoints: empty where they go together."""
    each = [{key: of[key] for key in PREPARATION} | {"phases": ", ".join(classes_of(of))} for of in (one, other)]
    return "; ".join(
        f"{key} {value} {in_one}, {each[1][key]} {in_other}" for key, value in each[0].items() if value != each[1][key]
    )


def digest(pixels: np.ndarray) -> str:
    """SHA-256 of the values of an array, row by row."""
    return hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def _micrographs(metadata: dict) -> list[Micrograph]:
    natives = {native["name"]: native for native in metadata["sources"]}
    names = [field.name for field in fields(Micrograph)]
    # Of a whole domain, unless a source has its own.
    scale = {key: metadata["parameters"].get(key) for key in ("pixel_size_nm", "information_bar")}
    return [
        Micrograph(**{name: (scale | {"index": index} | natives[entry["parent"]] | entry)[name] for name in names})
        for index, entry in enumerate(metadata["micrographs"])
    ]
