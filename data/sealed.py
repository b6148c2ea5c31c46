"""HDF5 files that are known to be whole: written beside their place, sealed with a digest, then renamed.

The file starts with a user block of one line of JSON: schema, length and SHA-256 of the HDF5 part behind it.
The block is written last: so a file that is unfinished, truncated or of another schema is known by its first
bytes, and a single flipped byte by the digest.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import h5py
import numpy as np

from common.errors import InputError
from common.files import replacing

_USER_BLOCK = 512  # bytes, the smallest that HDF5 allows
_RESERVE = 1 << 20  # bytes for HDF5's own structures


class Kind(NamedTuple):
    """Kind of sealed file: its name in messages, the schema that this code reads, the module that makes it.

    extended: schema of those with a content that an older version would misunderstand; read too.
    """

    name: str
    schema: int | str
    maker: str
    extended: int | None = None


class SealedReader:
    """Read-only sealed file. Each process opens it on first use: a reader may be pickled and forked.

    Raises InputError if the file is missing, half-written, truncated or of another kind or schema.
    """

    def __init__(self, path: Path | str, kind: Kind):
        self.path, self.kind = Path(path), kind
        self._handle, self._process = None, None
        check_seal(self.path, kind)

    def _read(self, name: str, index: int | tuple = ()) -> np.ndarray:
        """Read a dataset of the file, or a part of it. InputError where it is damaged."""
        try:
            return self._file()[name][index]
        except (OSError, KeyError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: {name} is damaged ({error}); data.verify says more; copy it, or make it again with "
                f"{self.kind.maker}"
            ) from error

    def _file(self) -> h5py.File:
        if self._process != os.getpid():
            # Finished files never change, and file locks fail on many cluster file systems.
            self._handle, self._process = h5py.File(self.path, "r", locking=False), os.getpid()
        return self._handle

    def _close(self) -> None:
        """Close the file, which the next access opens again."""
        if self._process == os.getpid():
            self._handle.close()
        self._handle, self._process = None, None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_handle": None, "_process": None}


class SealedWriter:
    """Writer of a file under a temporary name, `partial`, that `place` renames; any failure before removes it.

    Use as a context manager. Several processes, on one machine or on several, may write one file at the same time: each
    has a `partial` of its own, with a lock on it, by which the others know that it is in use. Space is reserved before
    HDF5 writes, because the library crashes when it closes a file on a full disk.
    """

    def __init__(self, path: Path | str, kind: Kind):
        self.path, self.kind = Path(path), kind
        self.partial = self.path.with_name(f".{self.path.name}.partial-{secrets.token_hex(8)}")
        self.file, self.lock = None, None

    def __enter__(self) -> Self:
        with self._disk_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.path)
            self.lock = self.partial.open("xb")
            _lock(self.lock)
            self.file = h5py.File(self.partial, "w", userblock_size=_USER_BLOCK, locking=False)
            self._reserve(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def place(self, replace: bool = True) -> bool:
        """Put the sealed file in its place. InputError where that fails.

        Without `replace` only where there is none: False where another process was faster.
        """
        with self._disk_errors():
            if not replace:
                with self.partial.open("rb") as file:
                    os.fsync(file.fileno())
                try:
                    os.link(self.partial, self.path)  # unlike a rename, it fails where there is a file
                    return True
                except FileExistsError:
                    return False
                except OSError:  # a file system without hard links
                    pass
            with replacing(self.path, self.partial, durable=True):
                return True

    def _seal(self, extended: bool = False) -> None:
        """Close the file and seal it, under its temporary name, with the kind's schema or the extended one."""
        self.file.flush()
        size = self.file.id.get_filesize()
        self.file.close()
        with self.partial.open("r+b") as file:
            file.truncate(size)
            block = _block_of(file, self.kind.extended if extended else self.kind.schema)
            file.seek(0)
            file.write(block)

    def _reserve(self, size: int) -> None:
        with self.partial.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, self.file.id.get_filesize() + size + _RESERVE)

    def _discard(self) -> None:
        if self.file:
            self.file.close()
        with contextlib.suppress(OSError):  # the folder itself may be the trouble
            self.partial.unlink()
        if self.lock:
            self.lock.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn an OSError (disk full, no permission) into an InputError, and remove the file."""
        try:
            yield
        except OSError as error:
            self._discard()
            reason = os.strerror(error.errno) if error.errno else error  # HDF5's own text is a long one
            raise InputError(
                f"{self.path}: cannot be written ({reason}); free space or choose another "
                "--out; what was there before is untouched"
            ) from error


def check_seal(path: Path, kind: Kind) -> None:
    """Raise InputError unless the file is a finished one of this kind and schema and of full length."""
    try:
        with path.open("rb") as file:
            block = file.read(_USER_BLOCK)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path}: no {kind.name} ({error.strerror}); make it with {kind.maker}") from error
    if not block.strip(b"\0"):  # the block is written last; a file just begun has not even its zeros
        raise InputError(f"{path}: half-written, its {kind.maker} is at work or was stopped; run it again")
    try:
        seal = json.loads(block)
        schema, length = seal["schema"], int(seal["bytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a {kind.name}; make one with {kind.maker}") from error
    if schema not in (kind.schema, kind.extended):
        raise InputError(
            f"{path}: schema {schema}, a {kind.name} of this version has schema {kind.schema}; make it again with "
            f"{kind.maker}"
        )
    if size != length + _USER_BLOCK:
        raise InputError(
            f"{path}: truncated to {size} of {length + _USER_BLOCK} bytes; copy it, or make it again with {kind.maker}"
        )


def seal_is_intact(path: Path | str) -> bool:
    """Compare every byte of a sealed file, of any kind, with its digest."""
    with open(path, "rb") as file:
        block = file.read(_USER_BLOCK)
        return block == _block_of(file, json.loads(block)["schema"])


def _block_of(file: BinaryIO, schema: int | str) -> bytes:
    """The user block that belongs to the HDF5 part of an open file."""
    file.seek(_USER_BLOCK)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    seal = json.dumps({"schema": schema, "bytes": file.tell() - _USER_BLOCK, "sha256": sha256})
    return seal.encode().ljust(_USER_BLOCK - 1) + b"\n"


def _remove_leftovers(path: Path) -> None:
    """Delete the partial files that killed runs left beside `path`: those that nobody has locked.

    An empty one may just have been begun, and has no lock yet, unless it is a minute old.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        with contextlib.suppress(OSError), leftover.open("r+b") as file:
            status = os.fstat(file.fileno())
            if (status.st_size or time.time() - status.st_mtime > 60) and _lock(file):
                leftover.unlink()


def _lock(file: BinaryIO) -> bool:
    """Lock an open file while it is open. False where another process has it, or the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
