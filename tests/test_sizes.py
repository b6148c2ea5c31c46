"""A wrong pixel size is told before its resize is tried: the factor, the size, and which pixel sizes lead to them."""

import resource
import subprocess

import cv2
import numpy as np
import pytest
from bad_input import call
from conftest import ROOT, annotated, command, domains_toml, draw
from test_surroundings import refused

from common.errors import InputError
from common.memory import free_memory
from data.images import prepare_mask, prepare_micrograph

OPTIONS = {"reference": "sem", "scale": 0.5, "tile": 48, "overlap": 8}


@pytest.fixture
def toml(tmp_path):
    """A domains.toml in which t3 has 5000 nm a pixel, and 5 were meant."""
    draw(tmp_path / "sem", 2, seed=1, contrast=1.0)
    draw(tmp_path / "t3", 2, seed=2, contrast=1.0, size=(60, 50))
    sem, t3 = annotated("sem", folds=2), annotated("t3", folds=2)
    (tmp_path / "domains.toml").write_text(
        domains_toml(OPTIONS, sem=sem | {"pixel_size_nm": 5}, t3=t3 | {"pixel_size_nm": 5000})
    )
    return tmp_path / "domains.toml"


@pytest.mark.parametrize(("size", "warned"), [(40, False), (60, True)])
def test_a_large_factor_is_warned_of(toml, size, warned):
    toml.write_text(toml.read_text().replace("= 5000", f"= {size}"))
    status, printed = call(f"prepare {toml} --out {toml.parent / 'stores'} --yes")
    assert status == 0 and ("warning: micrographs are enlarged 6 times" in printed) == warned


@pytest.mark.parametrize(("wrong", "says"), [
    (5000, ("50 x 60 px times 500 gives 25000 x 30000 px", "up to 16 times", "pixel_size_nm = 5000 of t3")),
    (0.1, ("50 x 60 px times 0.01 gives 0 x 1 px", "8 .. 32767", "pixel_size_nm = 0.1 of t3")),
])  # fmt: skip
def test_prepare_names_factor_size_and_pixel_sizes(toml, wrong, says):
    toml.write_text(toml.read_text().replace("= 5000", f"= {wrong}"))
    status, printed = call(f"prepare {toml} --out {toml.parent / 'stores'}")
    assert status == 2 and "m0.png" in printed
    for words in (*says, "5 of the reference sem", "scale = 0.5"):
        assert words in printed
    assert [file.name for file in (toml.parent / "stores").iterdir()] == ["sem.h5"]


def test_segmentation_names_factor_size_and_pixel_sizes(supervised, tmp_path):
    draw(tmp_path / "lom", 1, seed=2, contrast=1.0, size=(60, 50))
    status, printed = call(
        f"evaluate {supervised} --images {tmp_path / 'lom' / 'images'} --out {tmp_path / 'out'} --pixel-size 25000"
    )
    assert status == 2 and "1 of 1 images not segmented" in printed and "m0.png" in printed
    assert "times 500 gives 25000 x 30000 px" in printed and "--pixel-size 25000 (nm), against 50" in printed


def test_what_memory_does_not_hold_is_refused_before_it_is_tried(toml):
    """With an address space that ends before the resize does: 24,000 x 20,000 px."""
    for part in ("images", "masks"):
        for file in (toml.parent / "t3" / part).iterdir():
            small = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(str(file), cv2.resize(small, (2000, 2400), interpolation=cv2.INTER_NEAREST))
    toml.write_text(toml.read_text().replace("= 5000", "= 100"))
    line = command(
        "-m", "data.prepare", toml, "--out", toml.parent / "stores", "--domain", "t3", "--workers", 1, "--yes"
    )
    limit = 3 << 30
    ended = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    refused(ended, "m0.png", "times 10 gives 20000 x 24000 px", "they take 3.8 GB", "are free", "= 100 of t3")


def test_memory_is_asked_for_enlargements_only(monkeypatch):
    """A stitched micrograph that could be read can be prepared, as it is or smaller."""
    assert 0 < free_memory() < 1 << 50
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, before[1]))
    try:
        assert free_memory() < 1 << 30
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    grey = np.zeros((300, 200), np.uint8)
    for factor in (1, 0.5):
        assert prepare_micrograph(grey, factor, memory=0).shape == (300 * factor, 200 * factor)
    with pytest.raises(InputError, match=r"times 1\.01 gives 202 x 303 px; they take 0.0 GB"):
        prepare_micrograph(grey, 1.01, memory=0)
    mask = np.eye(40, dtype=np.uint8)
    np.testing.assert_array_equal(prepare_mask(mask, 1), mask)
