"""Files that programs leave behind: in one piece or not at all."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.files import replacing, write_file
from data.pictures import read_classes, write_classes
from training import checkpoint


def test_a_failed_write_leaves_what_was_there_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_file(path, "old")
    for ending in (OSError, KeyboardInterrupt):
        with pytest.raises(ending), replacing(path) as partial:
            partial.write_text("half of the n")
            raise ending
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match=r"a\.txt/b: cannot be written \(Not a directory\)"):
        write_file(path / "b", "new")


def test_a_mask_is_read_back_from_any_path(tmp_path):
    """Also from one that is no UTF-8, on which cv2.imread crashes."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Gef\xfcge.png"))
    for classes in (("matrix", "phase"), ("matrix", "phase", "another")):
        mask = (np.arange(64, dtype=np.uint8) % len(classes)).reshape(8, 8)
        write_classes(path, mask, classes)
        np.testing.assert_array_equal(read_classes(path), mask)
        for damage in (path.read_bytes()[:40], b""):
            path.write_bytes(damage)
            assert read_classes(path) is None


def test_what_was_there_may_be_kept(tmp_path):
    path, kept = tmp_path / "last", tmp_path / "previous"
    for content in ("1", "2", "3"):
        with replacing(path, durable=True, keep=kept) as partial:
            partial.write_text(content)
    assert (path.read_text(), kept.read_text()) == ("3", "2") and len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_on_a_full_disk_says_so_and_loses_nothing(tmp_path, monkeypatch):
    path, kept = tmp_path / "last.pt", tmp_path / "previous.pt"
    checkpoint.save(path, {"step": 1}, keep=kept)
    before = path.read_bytes()

    def fails(_, file):
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/0")

    # The space that the half-written file takes is free again after it is removed, so it is looked at before.
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(free=len(list(tmp_path.iterdir())) < 2 and 1 << 30)
    )
    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(InputError, match=r"last\.pt: cannot be written \(the disk is full\).*before is intact"):
        checkpoint.save(path, {"step": 2}, keep=kept)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
