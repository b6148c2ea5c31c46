"""The synthetic micrographs are reproducible, carry exact masks, and are not solved by their grey level."""

import tomllib

import cv2
import numpy as np
import pytest

from common.errors import InputError
from data.images import read_image
from data.synthetic import micrographs

DOMAINS = tuple(micrographs.DOMAINS)


@pytest.fixture(scope="module")
def drawn():
    """The first five training and, where there are any, two test micrographs of each domain (demo size)."""
    first_test = {"source": 5, "t1": 12, "t2": 12, "t3": 24}
    return {
        domain: [micrographs.draw(domain, i) for i in (0, 1, 2, 3, 4, first_test[domain], first_test[domain] + 1)]
        for domain in DOMAINS
    }


def pooled_miou(pairs):
    """Mean of both classes' IoU over (predicted, true) pairs of bool masks, pixels pooled."""
    predicted = np.concatenate([prediction.ravel() for prediction, _ in pairs])
    true = np.concatenate([mask.ravel() for _, mask in pairs])
    return np.mean([(p & t).sum() / (p | t).sum() for p, t in ((predicted, true), (~predicted, ~true))])


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_micrograph_is_a_function_of_seed_domain_and_index(domain, drawn):
    image, mask = drawn[domain][0]
    again, mask_again = micrographs.draw(domain, 0, seed=0)
    assert np.array_equal(image, again) and np.array_equal(mask, mask_again)
    for other in (micrographs.draw(domain, 0, seed=1), drawn[domain][1]):
        assert not np.array_equal(image, other[0]) and not np.array_equal(mask, other[1])


@pytest.mark.parametrize("domain", DOMAINS)
def test_masks_are_binary_and_annotator_sized(domain, drawn):
    for image, mask in drawn[domain]:
        assert image.dtype == mask.dtype == np.uint8 and image.shape == mask.shape
        assert set(np.unique(mask)) == {0, 255}
        pixel = 126.6 if domain == "t3" else 27.7
        for phase in (mask, 255 - mask):
            areas = cv2.connectedComponentsWithStats(phase, connectivity=4)[2][1:, cv2.CC_STAT_AREA] * pixel**2
            # At the light microscope's pixel a thin neck may break off a pixel or two: they must stay few.
            assert areas[areas < 2e5].sum() < 0.005 * phase.size * pixel**2


def test_the_mask_is_the_drawn_bainite():
    """Films and sub-grain boundaries lie inside the mask only: the data have no annotation error."""
    structure = micrographs.microstructure(np.random.default_rng(0), (360, 512), micrographs.SEM_PIXEL, 0.5)
    assert structure.film[structure.bainite].max() > 20
    assert structure.film[~structure.bainite].max() < -100 and structure.wall[~structure.bainite].max() < -100
    assert structure.boundary.min() >= 0 and abs(structure.bainite.mean() - 0.5) < 0.03


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(("sigma", "bound"), [(0, 0.55), (4, 0.60), (10, 0.60)])
def test_no_grey_level_threshold_solves_it(domain, sigma, bound, drawn):
    """Per-image Otsu, bright or dark as foreground, plain or blurred, is no better than guessing."""
    pairs = []
    for image, mask in drawn[domain]:
        grey = 255 - image if micrographs.DOMAINS[domain].light else image
        grey = cv2.GaussianBlur(grey, (0, 0), sigma) if sigma else grey
        pairs.append((cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)[1] > 0, mask > 0))
    assert pooled_miou(pairs) < bound
    assert pooled_miou([(~bright, true) for bright, true in pairs]) < bound


@pytest.mark.parametrize("domain", DOMAINS)
def test_phase_fractions_follow_the_study(domain, drawn):
    recipe = micrographs.DOMAINS[domain]
    fractions = [(mask > 0).mean() for _, mask in drawn[domain]]
    assert np.mean(fractions[:5]) == pytest.approx(recipe.fraction, abs=0.05)
    assert np.ptp(fractions[:5]) > 0.1  # they vary from image to image, as in the study
    if domain != "source":
        assert np.mean(fractions[5:]) == pytest.approx(recipe.test_fraction, abs=0.1)


def test_written_folders_are_readable(tmp_path, monkeypatch):
    images = {"source": (2, 0), "t1": (1, 1), "t2": (1, 1), "t3": (1, 1)}
    plan = micrographs.Size((240, 320), (40, 48), 112, 8, images)
    monkeypatch.setitem(micrographs.SIZES, "demo", plan)
    micrographs.main(["--out", str(tmp_path / "demo"), "--workers", "1"])
    document = tomllib.loads((tmp_path / "demo/domains.toml").read_text())
    assert document["options"] == {"reference": "source", "scale": 0.5, "tile": 112, "overlap": 8}
    for domain, entry in document["domains"].items():
        images = {path.stem: path for path in (tmp_path / "demo" / entry["images"]).iterdir()}
        masks = {path.stem: path for path in (tmp_path / "demo" / entry["masks"]).iterdir()}
        assert len(images) == 2 and set(entry.get("test", [])) <= set(masks)
        assert set(masks) == (set(images) if domain in ("source", "t3") else set(entry["test"]))
        for stem, path in masks.items():
            index = int(stem.rpartition("_")[2])
            assert np.array_equal(read_image(images[stem]), micrographs.draw(domain, index)[0])
            assert np.array_equal(read_image(path), micrographs.draw(domain, index)[1])
    assert document["domains"]["t3"]["invert"] is True and document["domains"]["t3"]["pixel_size_nm"] == 126.6
    with pytest.raises(InputError, match=r"domains\.toml: exists already"):
        micrographs.write_domains(tmp_path / "demo", "demo", 0, 1)


@pytest.mark.parametrize("phases", [2, 3])
def test_changed_targets_are_new_fields_of_the_sources_steel(phases):
    inverted, enlarged, blurred = (micrographs.draw(name, 0, phases=phases) for name in micrographs.CHANGES)
    fields = [mask[:: len(mask) // 716, :: len(mask) // 716] for _, mask in (inverted, enlarged, blurred)]
    assert not any(np.array_equal(one, other) for one, other in ((fields[0], fields[1]), (fields[1], fields[2])))
    for image, mask in (inverted, enlarged, blurred):
        assert image.dtype == mask.dtype == np.uint8 and image.shape == mask.shape
        assert set(np.unique(mask)) == ({0, 255} if phases == 2 else {0, 128, 255})
    source = [micrographs.draw("source", index, phases=phases)[0] for index in range(3)]
    usual = np.mean(source)
    assert abs((255 - inverted[0]).mean() - usual) < 25 and inverted[0].mean() > usual + 40
    assert enlarged[0].shape == (2 * 716, 2 * 1024) and abs(enlarged[0].mean() - usual) < 25
    # Neighbouring pixels differ less, and the brightness of quarters of a field more.
    assert np.abs(np.diff(blurred[0].astype(int))).mean() < 0.4 * np.abs(np.diff(source[0].astype(int))).mean()
    quarters = [[quarter.mean() for half in np.split(one, 2) for quarter in np.split(half, 2, 1)] for one in
                (blurred[0], source[0])]  # fmt: skip
    assert np.std(quarters[0]) > 2 * np.std(quarters[1])


def test_changed_targets_stand_in_domains_toml():
    names = [*micrographs.DOMAINS, *micrographs.CHANGES]
    domains = tomllib.loads(micrographs._domains_toml(micrographs.SIZES["demo"], names, 2))["domains"]
    assert list(domains) == names
    for name in micrographs.CHANGES:
        assert domains[name] == domains["source"] | {"images": f"{name}/images", "masks": f"{name}/masks"}
