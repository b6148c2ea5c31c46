"""The HDF5 tile store of one domain (layout: docs/data_format.md): `Store` reads it, `StoreWriter` writes it.

The file starts with a user block of one line of JSON: schema, length and SHA-256 of the HDF5 part behind it.
The block is written last: so a store that is unfinished, truncated or of another schema is known by its first
bytes, and a single flipped byte by the digest.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from data.errors import InputError
from data.images import cut_tiles

SCHEMA = 1
_USER_BLOCK = 512  # bytes, the smallest that HDF5 allows
_RESERVE = 1 << 20  # bytes for HDF5's own structures
_COMPRESSED = {
    "compression": "gzip",
    "compression_opts": 1,
}  # masks shrink to 1 %; images stay raw, 3 times faster


@dataclass(frozen=True)
class Micrograph:
    """A prepared micrograph: `parent` is the native one it was cropped from, `file` and `sha256` are the
    parent's; fold is -1 outside all folds; height and width are px at working scale, without padding."""

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


def store_path(folder, domain) -> Path:
    """The store of a domain in a folder of stores."""
    return Path(folder) / f"{domain}.h5"


class Store:
    """Read-only tile store. Each process opens the file on first use: a Store may be pickled and forked.

    labels=False makes every access to a mask an error: target training data must have no label path.
    Raises InputError if the store is missing, half-written, truncated, damaged or of another schema.
    """

    def __init__(self, path, labels: bool = True):
        self.path, self.labels = Path(path), labels
        self._handle, self._process = None, None
        check_seal(self.path)
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
        except (OSError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{self.path}: damaged tile store ({error}); run data.prepare again") from error
        self.fingerprint = hashlib.sha256(text).hexdigest()

    @property
    def preparation(self) -> dict:
        """What stores and checkpoints that are used together must share."""
        return {key: getattr(self, key) for key in ("tile", "overlap", "scale", "reference_pixel_size_nm")}

    def tile_image(self, index) -> np.ndarray:
        """Tile with its context, uint8 (T, T), T = tile + 2 overlap."""
        return self._file()["tiles/image"][index]

    def tile_mask(self, index) -> np.ndarray:
        """Mask of a tile with its context, uint8 (T, T) of 0 and 1. InputError without labels."""
        self._require_mask(int(self.tile_micrograph[index]))
        return self._file()["tiles/mask"][index]

    def image(self, micrograph) -> np.ndarray:
        """Whole micrograph at working scale, uint8 (h, w)."""
        return self._file()[f"micrographs/{micrograph}/image"][:]

    def mask(self, micrograph) -> np.ndarray:
        """Mask of a whole micrograph, uint8 (h, w) of 0 and 1. InputError without labels."""
        self._require_mask(micrograph)
        return self._file()[f"micrographs/{micrograph}/mask"][:]

    def training_tiles(self, fold, labelled: bool) -> np.ndarray:
        """int64 (n,): tiles outside the test set and fold `fold`, only annotated ones if `labelled`."""
        held_out = self.validation_micrographs(fold)
        chosen = [
            micrograph.index
            for micrograph in self.micrographs
            if not (micrograph.test or micrograph.index in held_out or (labelled and not micrograph.labelled))
        ]
        return np.flatnonzero(np.isin(self.tile_micrograph, chosen))

    def evaluation_micrographs(self, fold) -> list[int]:
        """The fixed test set where the domain has one, else the annotated micrographs of fold `fold`."""
        test = [micrograph.index for micrograph in self.micrographs if micrograph.test]
        return test or self.validation_micrographs(fold)

    def validation_micrographs(self, fold) -> list[int]:
        """Annotated micrographs of fold `fold`, none of the test set; empty for a domain without folds."""
        if not self.folds or fold is None:
            return []
        if not 0 <= fold < self.folds:
            raise InputError(f"{self.path}: fold {fold} of {self.folds}; choose 0 .. {self.folds - 1}")
        return [micrograph.index for micrograph in self.micrographs if micrograph.fold == fold]

    def _file(self):
        if self._process != os.getpid():
            # Finished stores never change, and file locks fail on many cluster file systems.
            self._handle, self._process = h5py.File(self.path, "r", locking=False), os.getpid()
        return self._handle

    def _require_mask(self, micrograph):
        name = self.micrographs[micrograph].name
        if not self.labels:
            raise InputError(
                f"{self.path}: mask of '{name}' asked for, but the store was opened without labels"
            )
        if not self.micrographs[micrograph].labelled:
            raise InputError(
                f"{self.path}: micrograph '{name}' has no mask; annotate it and run data.prepare again"
            )

    def __getstate__(self):
        return self.__dict__ | {"_handle": None, "_process": None}


class StoreWriter:
    """Writes a store under a temporary name and renames it when `finish` was called; any failure removes it.

    Use as a context manager. An OSError on the way (disk full, no permission) becomes an InputError. Space is
    reserved before HDF5 writes, because the library crashes when it closes a file on a full disk.
    """

    def __init__(self, path, tile, overlap):
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.name}.partial-{os.getpid()}")
        self.tile, self.overlap = tile, overlap
        self.file, self.micrographs, self.positions = None, [], []

    def __enter__(self):
        with self._disk_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.path)
            self.file = h5py.File(self.partial, "w", userblock_size=_USER_BLOCK, locking=False)
            self._reserve(0)
            side = self.tile + 2 * self.overlap
            layout = {"shape": (0, side, side), "maxshape": (None, side, side), "chunks": (1, side, side)}
            self.tile_images = self.file.create_dataset("tiles/image", dtype=np.uint8, **layout)
            self.tile_masks = self.file.create_dataset("tiles/mask", dtype=np.uint8, **_COMPRESSED, **layout)
        return self

    def __exit__(self, *_):
        self._discard()

    def add(self, image, mask, **description):
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
            self.file.flush()  # so that the file's size, from which _reserve counts, is complete
        self.positions += [(index, row, column) for row, column in positions]
        size = dict(zip(("height", "width"), image.shape, strict=True))
        own = size | {"labelled": mask is not None, "image_digest": digest(image)}
        self.micrographs.append(description | own | {"mask_digest": None if mask is None else digest(mask)})

    def finish(self, parameters, sources):
        """Write metadata and seal, and put the store in its place (arguments: docs/data_format.md)."""
        positions = np.array(self.positions, np.int64)
        labelled = np.array([micrograph["labelled"] for micrograph in self.micrographs])
        text = json.dumps({"parameters": parameters, "sources": sources, "micrographs": self.micrographs})
        with self._disk_errors():
            self._reserve(len(text) + 2 * positions.nbytes)
            self.file["tiles/micrograph"] = positions[:, 0]
            self.file["tiles/position"] = positions[:, 1:]
            self.file["tiles/labelled"] = labelled[positions[:, 0]]
            self.file["metadata"] = text
            self.file.flush()
            size = self.file.id.get_filesize()
            self.file.close()
            with open(self.partial, "r+b") as file:
                file.truncate(size)
                seal = _seal(file)
                file.seek(0)
                file.write(seal)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self.partial, self.path)

    def _reserve(self, size):
        with self.partial.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, self.file.id.get_filesize() + size + _RESERVE)

    def _discard(self):
        if self.file:
            self.file.close()
        with contextlib.suppress(OSError):  # the folder itself may be the trouble
            self.partial.unlink()

    @contextlib.contextmanager
    def _disk_errors(self):
        try:
            yield
        except OSError as error:
            self._discard()
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror or error}); free space or choose another "
                "--out; what was there before is untouched"
            ) from error


def check_seal(path):
    """Raise InputError unless the file is a finished store of this schema and of full length."""
    try:
        with path.open("rb") as file:
            block = file.read(_USER_BLOCK)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path}: no tile store ({error.strerror}); make it with data.prepare") from error
    if not block.strip(b"\0"):  # the block is written last; a file just begun has not even its zeros
        raise InputError(f"{path}: half-written, its data.prepare is at work or was stopped; run it again")
    try:
        seal = json.loads(block)
        schema, length = seal["schema"], seal["bytes"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a tile store; make one with data.prepare") from error
    if schema != SCHEMA:
        raise InputError(
            f"{path}: schema {schema}, this version reads {SCHEMA}; run data.prepare with --force"
        )
    if size != length + _USER_BLOCK:
        raise InputError(
            f"{path}: truncated to {size} of {length + _USER_BLOCK} bytes; copy it or prepare it again"
        )


def seal_is_intact(path) -> bool:
    """Whether every byte of a store is as it was written."""
    with open(path, "rb") as file:
        return file.read(_USER_BLOCK) == _seal(file)


def digest(pixels) -> str:
    """SHA-256 of the values of an array, row by row."""
    return hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def _seal(file) -> bytes:
    """The user block that belongs to the HDF5 part of an open store."""
    file.seek(_USER_BLOCK)
    sha256, length = hashlib.sha256(), 0
    while block := file.read(1 << 20):
        sha256.update(block)
        length += len(block)
    seal = json.dumps({"schema": SCHEMA, "bytes": length, "sha256": sha256.hexdigest()})
    return seal.encode().ljust(_USER_BLOCK - 1) + b"\n"


def _micrographs(metadata) -> list[Micrograph]:
    sources = {source["name"]: source for source in metadata["sources"]}
    names = [field.name for field in fields(Micrograph)]
    return [
        Micrograph(**{name: ({"index": index} | sources[entry["parent"]] | entry)[name] for name in names})
        for index, entry in enumerate(metadata["micrographs"])
    ]


def _remove_leftovers(path):
    """Delete the partial files that killed runs left beside `path`."""
    for leftover in path.parent.glob(f".{path.name}.partial-*"):
        if not Path("/proc", leftover.name.rpartition("-")[2]).exists():
            leftover.unlink(missing_ok=True)
