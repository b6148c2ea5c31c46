"""The cleaned pictures of a classification in one HDF5 file: `ImageStore` reads it, `ImageStoreWriter` writes it.

Layout: images (n, size, size) uint8, one chunk a picture; labels (n,) int64; metadata, JSON with `parameters`,
`classes` (names, in the order of the labels) and `pictures` (file, digest of the pixels, bar row, marks).
"""

import hashlib
import json
from pathlib import Path
from typing import Self

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset

from common.errors import InputError
from common.seeds import generator
from data.sealed import Kind, SealedReader, SealedWriter
from data.store import digest

IMAGE_STORE = Kind("store of classified images", schema="classified images 1", maker="data.nanosem")
TEST_FRACTION = 0.2  # the study's 3,750 of 18,750 images (paper Section 2.4.2)


def image_store_path(data: Path | str) -> Path:
    """The store that belongs to --data: that file, or `nanosem.h5` for the folder of classes `nanosem`."""
    path = Path(data)
    return path if path.suffix == ".h5" else path.with_name(f"{path.name}.h5")


class ImageStore(SealedReader):
    """Read-only store of classified images. InputError if it is missing, unfinished, truncated or of another kind."""

    domain = "nanosem"  # purpose of the random draws, as of a tile store

    def __init__(self, path: Path | str):
        super().__init__(path, IMAGE_STORE)
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                text = file["metadata"][()]
                self.labels = file["labels"][:]
                self.size: int = file["images"].shape[1]
            self.metadata = json.loads(text)
            self.classes: list[str] = self.metadata["classes"]
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"{self.path}: damaged store ({error}); run data.nanosem again") from error
        self.fingerprint = hashlib.sha256(text).hexdigest()

    def image(self, index: int) -> np.ndarray:
        """Picture `index`, uint8 (size, size)."""
        return self._file()["images"][index]

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices int64 of the training and the test pictures, a fifth of each class: a function of the seed alone."""
        training, test = [], []
        for label, name in enumerate(self.classes):
            members = np.flatnonzero(self.labels == label)
            order = generator(seed, f"split of {name}").permutation(members)
            held_out = max(1, round(TEST_FRACTION * len(members)))
            test.append(order[:held_out])
            training.append(order[held_out:])
        return np.sort(np.concatenate(training)), np.sort(np.concatenate(test))


class ImageStoreWriter(SealedWriter):
    """Writer of a store under a temporary name, which `finish` completes and `place` renames. A failure removes it."""

    def __init__(self, path: Path | str, size: int):
        super().__init__(path, IMAGE_STORE)
        self.size, self.labels, self.pictures = size, [], []

    def __enter__(self) -> Self:
        super().__enter__()
        with self._disk_errors():
            shape = (self.size, self.size)
            self.images = self.file.create_dataset(
                "images", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape)
            )
        return self

    def add(self, image: np.ndarray, label: int, **description: str | int) -> None:
        """Append a picture uint8 (size, size); `description` goes to the metadata."""
        with self._disk_errors():
            self._reserve(image.nbytes)
            self.images.resize(len(self.labels) + 1, axis=0)
            self.images[len(self.labels)] = image
            if len(self.labels) % 256 == 0:
                self.file.flush()  # so that the file's size, from which _reserve counts, is nearly complete
        self.labels.append(label)
        self.pictures.append(description | {"image_digest": digest(image)})

    def finish(self, classes: list[str], parameters: dict) -> None:
        """Write labels, metadata and seal, under the temporary name."""
        text = json.dumps({"parameters": parameters, "classes": classes, "pictures": self.pictures})
        with self._disk_errors():
            self._reserve(len(text) + 8 * len(self.labels))
            self.file["labels"] = np.array(self.labels, np.int64)
            self.file["metadata"] = text
            self._seal()


class ClassifiedImages(Dataset):
    """Training pictures of a store without augmentation (paper Section 2.4.4).

    An item is asked for by (epoch, index) and is (image uint8 (1, size, size), class int64, dropout's factors float32
    (features,)): 0, or 1 / (1 - dropout). They belong to the sample of the epoch and so to no process and no restart.
    """

    def __init__(self, store: ImageStore, pictures: np.ndarray, features: int, dropout: float, seed: int):
        self.store, self.pictures, self.features, self.dropout, self.seed = store, pictures, features, dropout, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        """The file that a picture was read from."""
        return self.store.metadata["pictures"][self.pictures[index]]["file"]

    def __getitem__(self, where: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        epoch, index = where
        picture = self.pictures[index]
        kept = generator(self.seed, "dropout", epoch, index).random(self.features) >= self.dropout
        factors = (kept / (1 - self.dropout)).astype(np.float32)
        image = torch.from_numpy(self.store.image(picture))[None]
        return image, torch.tensor(self.store.labels[picture]), torch.from_numpy(factors)
