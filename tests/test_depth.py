"""Depth of files of 16-bit samples: what is drawn in does not count, and a file of another depth is named."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.images import brightest, read_image
from data.survey import depth_of

SPOTS = np.random.default_rng(4).integers(20, 235, (12, 16)).astype(np.uint8)
GREY = cv2.resize(SPOTS, (128, 96), interpolation=cv2.INTER_CUBIC).astype(np.uint16)


def saved(folder: Path, name: str, pixels: np.ndarray) -> tuple[Path, None, int]:
    """Save a picture of 16-bit samples without a bar."""
    cv2.imwrite(str(folder / f"{name}.png"), pixels.astype(np.uint16))
    return folder / f"{name}.png", None, 0


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.4])
def test_what_is_drawn_in_at_65535_does_not_count_whatever_its_share(tmp_path, capsys, share):
    """A true 16-bit picture that is overexposed as much has grey levels in between."""
    grey, plain = GREY * 16, saved(tmp_path, "plain", GREY * 16)
    drawn = grey.copy()
    drawn.flat[: int(share * drawn.size)] = 65535
    burned = saved(tmp_path, "burned", drawn)
    assert depth_of([plain, burned], 1) == (12, False)
    said = f"burned.png: {np.count_nonzero(drawn == 65535)} pixels are far brighter than all others, which 12 bits hold"
    assert said in capsys.readouterr().err
    rest = drawn != 65535
    np.testing.assert_array_equal(read_image(burned[0], 12)[rest], read_image(plain[0], 12)[rest])
    assert (read_image(burned[0], 12)[~rest] == 255).all()
    steep = np.minimum(GREY.astype(np.int64) * 65535 // np.quantile(GREY, 1 - share).astype(int), 65535)
    assert brightest(saved(tmp_path, "steep", steep)[0]).scanned == 65535


def test_two_grey_levels_are_a_picture(tmp_path):
    assert brightest(saved(tmp_path, "two", np.where(GREY > 99, 65535, 0))[0]) == (65535, 65535, 0)


@pytest.mark.parametrize(("times", "said"), [(4, "(and 1 other files)"), (31, ""), (64, None)])
def test_a_file_that_is_nearly_black_at_the_common_depth_is_named(tmp_path, capsys, times, said):
    """A domain of 16 bits, and files of which the other depth or a low exposure makes the grey levels a part."""
    files = [saved(tmp_path, "dark", GREY * times), saved(tmp_path, "bright", GREY * 257)]
    files += [saved(tmp_path, "darker", GREY * 4)] if times == 4 else []
    assert depth_of(files, 1)[0] == 16
    printed = capsys.readouterr().err
    assert (said is not None and f"dark.png{said and ' ' + said}: its brightest grey level" in printed) == bool(printed)


@pytest.mark.parametrize(("bits", "more"), [(14, 16), (12, 14), (10, 12), (8, 10)])
def test_a_camera_of_fewer_bits_is_known_by_its_white(tmp_path, capsys, bits, more):
    """Pictures that fill their depth, as overexposed ones do, are named; those that are as dark are not."""
    light = GREY.astype(np.float64) / GREY.max()
    bright = saved(tmp_path, "bright", light * (2**more - 1))
    clipped = [saved(tmp_path, name, np.minimum(light * 1.05, 1) * (2**bits - 1)) for name in ("a", "b", "c")]
    dark = saved(tmp_path, "dark", light * (2**bits - 40))
    assert depth_of([bright, dark, *clipped], 1)[0] == more
    said = f"a.png (and 2 other files): its brightest grey level is {2**bits - 1}, white at {bits} bits"
    printed = capsys.readouterr().err
    assert f"{said}, and all are read by {more}: 4 times too dark" in printed and printed.count("warning") == 1
    assert depth_of([bright, dark], 1)[0] == more and depth_of(clipped, 1)[0] == bits
    assert capsys.readouterr().err == ""
    assert depth_of(clipped, 1, least=more)[0] == more and "a.png (and 2" in capsys.readouterr().err
