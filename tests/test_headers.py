"""Pixel size and information bar are read off the file, for each micrograph, and what is typed is checked by it."""

import json

import cv2
import numpy as np
import pytest
import tifffile
from bad_input import call
from conftest import ROOT, domains_toml
from microscope_files import fei, hitachi, imagej, jeol, olympus, ome, plain, tescan, zeiss, zeiss_by_width

from common.errors import InputError
from data.headers import Header, read_header
from data.store import Store, store_path
from data.survey import Given, settled

GREY = np.random.default_rng(0).integers(0, 256, (100, 120), dtype=np.uint8)
CASES = ROOT.parent / "shared" / "cases"


@pytest.mark.parametrize(("maker", "write", "page"), [
    ("Zeiss", zeiss, None), ("Zeiss", zeiss_by_width, None), ("FEI", fei, None), ("Tescan", tescan, None),
    ("FEI", lambda *given: fei(*given, tag=34680, scan="EScan"), None), ("Olympus SIS", olympus, 2),
    ("OME-XML", ome, None), ("Olympus SIS", olympus, "image"),
    ("ImageJ", imagej, None), ("JEOL", jeol, None), ("Hitachi", hitachi, None),
    ("ImageJ", lambda *given: imagej(*given, unit="nm"), None),
    ("ImageJ", lambda *given: imagej(*given, unit="\\u00B5m"), None),
    ("Hitachi", lambda *given: hitachi(*given, encoding="latin-1"), None),
    ("Zeiss", lambda path, pixels, size: zeiss(path, np.dstack([pixels] * 3), size), None),
    ("Zeiss", lambda path, pixels, size: zeiss(path, pixels, size, comma=True), None),
])  # fmt: skip
def test_every_maker_says_its_pixel_size(tmp_path, maker, write, page):
    for number, nanometres in enumerate((1.25, 27.7, 1260.0)):
        path = tmp_path / f"a{number}.tif"
        write(path, GREY, nanometres)
        header = read_header(path, page)
        assert header.maker == maker and header.pixel_size_nm == pytest.approx(nanometres, rel=1e-4)


@pytest.mark.parametrize("write", [fei, tescan, jeol, hitachi])
def test_the_height_of_the_bar_is_read(tmp_path, write):
    for bar in (0, 12, 35):
        write(tmp_path / "a.tif", GREY, 5.0, bar)
        # Hitachi's picture may have its bar inside.
        assert read_header(tmp_path / "a.tif").information_bar == (bar if bar or write is not hitachi else None)


def test_a_text_beside_a_picture_that_is_no_tiff_counts(tmp_path):
    jeol(tmp_path / "a.bmp", GREY, 5.0, 20)
    cv2.imwrite(str(tmp_path / "a.bmp"), GREY)
    header = read_header(tmp_path / "a.bmp")
    assert (header.maker, header.pixel_size_nm, header.information_bar) == ("JEOL", pytest.approx(5.0), 20)


@pytest.mark.parametrize(("image", "text"), [("a.Tif", "a.Txt"), ("a.tif", "a.TXT"), ("a.TIF", "a.txt")])
def test_a_text_is_found_whatever_its_letters(tmp_path, image, text):
    """Older files of JEOL have one `$` before each word, and other letters."""
    jeol(tmp_path / "a.bmp", GREY, 5.0, 20)
    words = (tmp_path / "a.txt").read_text().replace("$$", "$")
    (tmp_path / "a.txt").unlink()
    (tmp_path / text).write_text(words)
    (tmp_path / "a.bmp").rename(tmp_path / image)
    assert read_header(tmp_path / image) == Header("JEOL", 5.0, 20, 120)


def test_tescans_words_may_stand_beside_the_picture(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), GREY)
    (tmp_path / "a-png.hdr").write_text("[MAIN]\nImageStripSize=7\nPixelSizeX=2.5e-09\n")
    header = read_header(tmp_path / "a.png")
    assert (header.maker, header.pixel_size_nm, header.information_bar) == ("Tescan", pytest.approx(2.5), 7)


def test_a_picture_of_another_width_does_not_say_its_bar(tmp_path):
    for write in (fei, jeol, hitachi):
        write(tmp_path / "a.tif", GREY, 5.0, 20)
        whole = tmp_path / "a.tif"
        content = whole.read_bytes().replace(b"ResolutionX=120", b"ResolutionX=240")
        whole.write_bytes(content)
        if (text := tmp_path / "a.txt").exists():
            words = text.read_bytes()
            for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
                words = words.replace("120".encode(encoding), "240".encode(encoding))
            text.write_bytes(words)
        header = read_header(whole)
        assert header.information_bar is None and header.width == 240 and header.pixel_size_nm == pytest.approx(5.0)
        text.unlink(missing_ok=True)


@pytest.mark.parametrize("size", [(240, 320), (256, 320), (320, 240)])
def test_a_picture_that_was_resized_beside_its_text_has_another_pixel_size(tmp_path, capsys, size):
    """Typed is that of the picture; the text is of 640 x 480. As "file" and for other numbers both are said."""
    path, turned = tmp_path / "a.tif", size[0] > size[1]
    jeol(path, np.zeros((480, 640), np.uint8), 27.7)
    tifffile.imwrite(
        path, np.zeros((240, 320) if turned else size, np.uint8), extratags=[(274, "H", 1, 6, True)] * turned
    )
    for typed, wrong in ((55.4, False), (27.7, False), (55, False), (40, True), ("file", True)):
        settled(path, None, Given(typed, 0, "pixel_size_nm", "information_bar"))
        said = f", but pixel_size_nm = {typed}" if typed == 40 else ""
        printed = capsys.readouterr().err
        assert bool(printed) == wrong
        assert not wrong or f"says 27.7 nm a pixel{said}. It was 640 px wide then, and is 320: 27.7 is" in printed
        assert not wrong or "right if it was cropped, 55.4 if it was resized." in printed


def test_only_a_picture_that_has_its_bar_is_to_be_given_its_rows(tmp_path, capsys):
    """Tescan's words do not say the picture's height; JEOL's do, and are silent once the bar is cut off."""
    given = Given(5, 0, "pixel_size_nm", "information_bar")
    tescan(tmp_path / "a.tif", GREY[:-32], 5, 32)
    settled(tmp_path / "a.tif", None, given)
    said = 'bar has 32 rows, but information_bar = 0. If the picture still has its bar, correct it, or give "file".'
    assert said in capsys.readouterr().err
    jeol(tmp_path / "b.tif", GREY, 5, 32)
    plain(tmp_path / "b.tif", GREY[:-32])
    assert settled(tmp_path / "b.tif", None, given) == (5, 0) and capsys.readouterr().err == ""


def test_a_printers_resolution_is_no_pixel_size(tmp_path):
    plain(tmp_path / "a.tif", GREY)
    imagej(tmp_path / "inch.tif", GREY, 25.4e6 / 72, "inch")
    imagej(tmp_path / "cm.tif", GREY, 1e7 / 28.35, "cm")
    tifffile.imwrite(tmp_path / "stack.tif", GREY, imagej=True, resolution=(72, 72))
    (tmp_path / "a.txt").write_text("a note\nPixels = many\n")
    for name in ("a", "inch", "cm", "stack"):
        header = read_header(tmp_path / f"{name}.tif")
        assert header is None or header.pixel_size_nm is None


def test_damaged_words_say_nothing(tmp_path):
    for number in range(0, 3000, 7):
        zeiss(tmp_path / "a.tif", GREY, 5.0)
        content = bytearray((tmp_path / "a.tif").read_bytes())
        place = -1 - number % min(len(content) - 8, 600)
        content[place] ^= 0xFF
        (tmp_path / "a.tif").write_bytes(content)
        read_header(tmp_path / "a.tif")


OF_SIDES = {
    "OME-XML": lambda path, x, y: ome(path, GREY, x, PhysicalSizeY=y / 1000, PhysicalSizeYUnit="µm"),
    "ImageJ": lambda path, x, y: tifffile.imwrite(
        path, GREY, imagej=True, resolution=(1000 / x, 1000 / y), metadata={"unit": "micrometers"}
    ),
    "FEI": lambda path, x, y: fei(path, GREY, x, more=f"PixelHeight={y * 1e-9:.10g}\r\n"),
    "Tescan": lambda path, x, y: tescan(path, GREY, x, more=f"PixelSizeY={y * 1e-9:.10g}\r\n"),
}


@pytest.mark.parametrize("maker", OF_SIDES)
def test_pixels_that_are_not_square_are_warned_of(tmp_path, maker, capsys):
    given = Given(20, 0, "pixel_size_nm", "information_bar")
    for height, wrong in ((20, False), (20.2, False), (26.1, True), (10, True)):
        OF_SIDES[maker](tmp_path / "a.tif", 20, height)
        assert settled(tmp_path / "a.tif", None, given) == (20, 0)
        printed = capsys.readouterr().err
        said = f"a.tif: its {maker} header says 20 nm a pixel across and {height:g} down. Square pixels" in printed
        assert said == wrong == bool(printed), printed


def test_two_sources_that_differ_are_warned_of(tmp_path, capsys):
    """The first is taken; each fact is of its own maker."""
    path, given = tmp_path / "a.tif", Given("file", 0, "pixel_size_nm", "information_bar")
    jeol(path, GREY, 41, 10)
    for said, wrong in ((20, True), (40.9, False)):
        imagej(path, GREY, said)
        assert settled(path, None, given)[0] == pytest.approx(said)
        printed = capsys.readouterr().err
        assert (f"ImageJ header says {said:g} nm a pixel, and its JEOL header 41. The first" in printed) == wrong
        assert "its JEOL header says that the information bar has 10 rows, but information_bar = 0" in printed
    path.with_suffix(".txt").unlink()
    tescan(path, GREY, 12, 7)
    (tmp_path / "a-tif.hdr").write_text("[MAIN]\nImageStripSize=9\nPixelSizeX=2.4e-8\n")
    assert settled(path, None, given) == (12, 0)
    printed = capsys.readouterr().err
    assert "its Tescan header says 12 nm a pixel, and another Tescan header 24." in printed
    assert "says that the information bar has 7 rows, and another Tescan header 9." in printed


def test_smartsems_width_and_pixel_size_are_two_sources(tmp_path, capsys):
    """The width is that of the stored picture, which may be larger than a crop."""
    path, given = tmp_path / "a.tif", Given("file", 0, "pixel_size_nm", "information_bar")
    for whole, stored, wrong in (
        (142.9, "", True),
        (1.2, "", False),
        (10.24, "1024 * 768", False),
        (1.2, "60 * 50", True),
    ):
        zeiss(path, GREY, 10, stored, width=whole)
        assert settled(path, None, given)[0] == 10
        said = f"its Zeiss header says 10 nm a pixel, and its Zeiss AP_WIDTH header {1000 * whole / 120:.4g}"
        assert ("AP_WIDTH" in (printed := capsys.readouterr().err)) == wrong
        assert stored or not wrong or said in printed


def test_each_image_of_an_ome_tiff_has_its_own_size(tmp_path):
    """Also a small second one without any."""
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        for pixels, size in ((GREY, 11.1), (GREY[::2, ::2].copy(), None), (GREY, 7.5)):
            metadata = {"PhysicalSizeX": size, "PhysicalSizeXUnit": "nm"} if size else {}
            tiff.write(pixels, metadata={"axes": "YX"} | metadata)
    sizes = [header and header.pixel_size_nm for header in (read_header(tmp_path / "a.ome.tif", n) for n in (1, 2, 3))]
    assert sizes == [11.1, None, 7.5]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_bar_is_not_below_where_the_picture_is_turned(tmp_path, orientation):
    """It would be cut off the other end. Without a bar there is none anywhere."""
    given = Given(5, "file", "pixel_size_nm", "information_bar")
    for bar in (0, 12):
        fei(tmp_path / "b.tif", GREY, 5.0, bar, orientation=orientation)
        if bar and orientation > 2:
            with pytest.raises(InputError, match=r"b\.tif: information_bar = .*turned by its orientation.* FEI"):
                settled(tmp_path / "b.tif", None, given)
        else:
            assert settled(tmp_path / "b.tif", None, given) == (5, bar)


@pytest.mark.parametrize(("write", "text"), [
    (lambda path: zeiss(path, GREY, 0, said="1,116.2 nm"), "Zeiss header says '1,116.2 nm'"),
    (lambda path: ome(path, GREY, 10, PhysicalSizeX=0.001, PhysicalSizeXUnit="in"), "OME-XML header says '0.001 in'"),
    (lambda path: imagej(path, GREY, 25.4e6 / 600, "inch"), "ImageJ header says '600 pixels a inch'"),
    (lambda path: imagej(path, GREY, 25.4e6 / 600, "cm"), "ImageJ header says '236.22 pixels a cm'"),
    (lambda path: imagej(path, GREY, 25.4e6 / 1200, "cm"), "ImageJ header says '472.441 pixels a cm'"),
])  # fmt: skip
def test_a_pixel_size_that_cannot_be_used_is_shown(tmp_path, write, text):
    write(tmp_path / "a.tif")
    with pytest.raises(InputError, match=f"its {text}, which is no pixel size; give a number"):
        settled(tmp_path / "a.tif", None, Given("file", 0, "pixel_size_nm", "information_bar"))


def test_a_calibration_in_centimetres_is_none_of_a_scanner(tmp_path):
    for pixels in (100.0, 212.3, 2000.0):
        imagej(tmp_path / "a.tif", GREY, 1e7 / pixels, "cm")
        size = read_header(tmp_path / "a.tif").pixel_size_nm
        assert size == (pytest.approx(1e7 / pixels) if pixels > 200 else None)


def test_a_decimal_comma_in_an_ome_tiff_is_one(tmp_path):
    ome(tmp_path / "a.tif", GREY, 10, PhysicalSizeX="0,0111")
    assert read_header(tmp_path / "a.tif").pixel_size_nm == pytest.approx(11.1)


def test_each_page_has_its_own_words(tmp_path):
    for number, nanometres in enumerate((5, 8)):
        zeiss(tmp_path / "a.tif", GREY, nanometres, append=number > 0)
    found = [read_header(tmp_path / "a.tif", page) for page in (1, 2)]
    assert [one.pixel_size_nm for one in found] == [5, 8] and not found[0].doubts and not found[1].doubts


@pytest.mark.parametrize(("text", "nanometres"), [
    ("[SemImageFile]\nPixelSize=24.8\n", 24.8), ("[SemImageFile]\nPixelSize = 24,8 nm\n", 24.8),
    ("[SemImageFile]\nPixelSize=0.0248 um\n", 24.8), ("[SemImageFile]\nPixelSize=24.8 furlongs\n", None),
    ("Operator=me\nPixelSize=4\nNote=camera\n", None), ("PixelSizeX=4\n", None),
    ("$$SM_MICRON_BAR\t50\n$$SM_MICRON_MARKER\t1um\n", 20), ("$SM_MICRON_BAR 50\n$SM_MICRON_MARKER 1 μm\n", 20),
    ("$$SM_MICRON_BAR 50\n$$SM_MICRON_MARKER 1e3nm\n", 20), ("$$SM_MICRON_BAR 50\n$$SM_MICRON_MARKER 1\n", None),
])  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "cp932", "gbk"])
def test_a_length_beside_a_picture_has_its_unit(tmp_path, text, nanometres, encoding):
    plain(tmp_path / "a.tif", GREY)
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    header = read_header(tmp_path / "a.tif")
    assert (header and header.pixel_size_nm) == (nanometres and pytest.approx(nanometres))


def test_a_size_of_zero_is_none(tmp_path):
    fei(tmp_path / "a.tif", GREY, 0, scan="EScan", more="[Scan]\r\nPixelWidth=2e-8\r\n")
    assert read_header(tmp_path / "a.tif").pixel_size_nm == pytest.approx(20)


SMALL = {"reference": "sem", "scale": 1.0, "tile": 48, "overlap": 8}
SPECIMEN = np.random.default_rng(3)


def drawn(folder, names, size=(1200, 1600)):
    """Pictures of one specimen of 1 nm a pixel, and its phase: {name: (pixels, mask)}."""
    phase = cv2.GaussianBlur(SPECIMEN.normal(size=size).astype(np.float32), (0, 0), 40) > 0.002
    noise = SPECIMEN.normal(size=size)
    grey = (90 + 70 * phase + 8 * noise).clip(0, 255).astype(np.uint8)
    return {name: (grey, phase.astype(np.uint8)) for name in names}


def seen(pixels, nanometres, enlarge):
    """Picture at a magnification."""
    side = tuple(int(length / nanometres) for length in pixels.shape[::-1])
    return cv2.resize(pixels, side, interpolation=enlarge)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """MetalDAM's situation: three magnifications and bars of 65 and 66 rows in one folder, masks without the bar."""
    folder = tmp_path_factory.mktemp("laboratory")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    (folder / "new").mkdir()
    scenes = {number: drawn(folder, ["scene"])["scene"] for number in range(3)}
    for number, (name, nanometres, bar) in enumerate(
        (f"m{scene}_{nanometres}", nanometres, bar)
        for scene in scenes
        for nanometres, bar in ((4, 65), (8, 66), (5, 65))
    ):
        pixels, phase = scenes[number // 3]
        picture = seen(pixels, nanometres, cv2.INTER_AREA)
        mask = seen(phase, nanometres, cv2.INTER_NEAREST)
        whole = np.vstack([picture, np.full((bar, picture.shape[1]), 255, np.uint8)])
        fei(folder / "images" / f"{name}.tif", whole, nanometres, bar)
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
        if number < 3:
            fei(folder / "new" / f"{name}.tif", whole, nanometres, bar)
    entry = {"images": "images", "masks": "masks", "foreground": [1], "folds": 3}
    entry |= {"pixel_size_nm": "file", "information_bar": "file"}
    (folder / "domains.toml").write_text(domains_toml(SMALL, sem=entry))
    status, printed = call(f"prepare {folder / 'domains.toml'} --out {folder / 'stores'}")
    assert status == 0 and "warning" not in printed, printed
    return folder


def test_a_folder_of_three_magnifications_is_prepared_trained_and_segmented(laboratory):
    store = Store(store_path(laboratory / "stores", "sem"))
    assert {(one.pixel_size_nm, one.information_bar) for one in store.micrographs} == {(4, 65), (8, 66), (5, 65)}
    assert store.reference_pixel_size_nm == 5
    by_scene = {}
    for one in store.micrographs:
        by_scene.setdefault(one.name[:2], []).append((one.height, one.width, store.mask(one.index).mean()))
    for found in by_scene.values():
        heights, widths, fractions = zip(*found, strict=True)
        assert np.ptp(heights) <= 2 and np.ptp(widths) <= 2 and np.ptp(fractions) < 0.01
    status, printed = call(f"verify {laboratory / 'stores'}")
    assert status == 0 and "8 nm a pixel, resized 1.6 times, 66 rows cut off: m0_8, m1_8, m2_8" in printed
    run = laboratory / "run"
    train = f"train_supervised --experiment demo.supervised --source sem --data {laboratory / 'stores'} --steps 60"
    status, printed = call(f"{train} --batch-size 4 --workers 0 --augmentation none --run-dir {run}")
    assert status == 0, printed
    out = laboratory / "segmented"
    status, printed = call(f"evaluate {run} --images {laboratory / 'new'} --out {out} --device cpu")
    assert (
        status == 0
        and "warning: its" not in printed
        and "the pixel size of each file, not inverted, the bar of each file cut off" in printed
    ), printed
    rows = [row.split(",") for row in (out / "phase_fractions.csv").read_text().splitlines()]
    table = [dict(zip(rows[0], row, strict=True)) for row in rows[1:-1]]
    assert {(float(row["pixel_size_nm"]), row["information_bar"]) for row in table} == {(4, "65"), (8, "66"), (5, "65")}
    fractions = [float(row["phase_fraction"]) for row in table]
    assert 0.1 < fractions[0] < 0.9 and np.ptp(fractions) < 0.01, fractions
    for row in table:  # masks are as large as the pictures, the bar in them empty
        mask = cv2.imread(str(out / "masks" / row["file"].replace(".tif", ".png")), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == tifffile.imread(laboratory / "new" / row["file"]).shape
        assert not mask[-int(row["information_bar"]) :].any()


def test_what_is_typed_is_checked_by_each_file(laboratory, tmp_path):
    entry = {"images": str(laboratory / "new"), "pixel_size_nm": 5.05, "information_bar": 65}
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL, sem=entry))
    status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")
    lines = [line for line in printed.splitlines() if line.startswith("warning")]
    assert status == 0 and len(lines) == 3 and "m0_5" not in printed
    for name, values in (
        ("m0_4.tif", ("4 nm", "pixel_size_nm = 5.05")),
        ("m0_8.tif", ("66 rows", "information_bar = 65")),
    ):
        line = next(line for line in lines if name in line and values[0] in line)
        assert values[1] in line and "domains.sem" in line


def test_segmentation_checks_its_pixel_size_too(laboratory, supervised, tmp_path):
    out = tmp_path / "out"
    status, printed = call(f"evaluate {supervised} --images {laboratory / 'new'} --out {out} --pixel-size 8")
    assert status == 0 and printed.count("nm a pixel, but --pixel-size = 8.") == 2
    assert (
        printed.count("information bar has 6") == 3 and "--information-bar (not given, so the domain's) = 0" in printed
    )
    status, printed = call(
        f"evaluate {supervised} --images {laboratory / 'new'} --out {tmp_path / 'b'} --pixel-size file"
    )
    assert status == 0 and "nm a pixel, but" not in printed
    given = "--pixel-size file --information-bar file"
    status, printed = call(f"evaluate {supervised} --images {laboratory / 'new'} --out {tmp_path / 'd'} {given}")
    assert status == 0 and "header says" not in printed
    assert ",66," in (tmp_path / "d" / "phase_fractions.csv").read_text()
    status, printed = call(
        f"evaluate {supervised} --images {laboratory / 'masks'} --out {tmp_path / 'c'} --pixel-size file"
    )
    assert status == 2 and '--pixel-size = "file"' in printed and "m0_4.png" in printed


def test_a_file_that_says_nothing_is_named(laboratory, tmp_path):
    entry = {"images": str(laboratory / "masks"), "pixel_size_nm": "file"}
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL, sem=entry))
    status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")
    assert status == 2 and "m0_4.png" in printed and "no microscope's header" in printed and "table" in printed


def test_a_store_of_typed_numbers_has_the_parameters_that_it_always_had(stores):
    metadata = Store(store_path(stores, "source")).metadata
    assert sorted(metadata["parameters"]) == sorted(
        ("domain", "reference", "reference_pixel_size_nm", "scale", "tile", "overlap", "field_of_view", "seed",
         "pixel_size_nm", "information_bar", "invert", "folds", "foreground", "background")
    )  # fmt: skip
    keys = {"name", "file", "sha256", "mask_file", "mask_sha256", "fold", "test"}
    assert all(source.keys() == keys for source in metadata["sources"])
    assert json.dumps(metadata)


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the shared cases are not at {CASES}")
def test_real_words_of_a_zeiss():
    assert read_header(CASES / "files" / "zeiss_111.6nm_rgb_crop.tif").pixel_size_nm == 111.6
    found = [read_header(CASES / "pixel_size_in_header/lom/images" / f"b{n}.tif").pixel_size_nm for n in (0, 1)]
    assert found == [5, 50]
