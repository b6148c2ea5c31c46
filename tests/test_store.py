"""A tile store: whole or not at all, labels only where allowed, splits that never share a micrograph."""

import json
import multiprocessing
import pickle
import shutil

import cv2
import numpy as np
import pytest
import tifffile
from bad_input import call
from conftest import annotated, domains_toml, draw, unannotated

from common.errors import InputError
from data.store import Store, StoreWriter, digest, store_path
from data.verify import check_together, main, open_intact


def test_no_micrograph_is_trained_on_and_scored(stores):
    source, target = Store(store_path(stores, "source")), Store(store_path(stores, "labelled"))
    for store, folds in ((source, range(3)), (target, [0])):
        scored = []
        for fold in folds:
            trained = set(store.tile_micrograph[store.training_tiles(fold, labelled=True)])
            assert trained and not trained & set(store.evaluation_micrographs(fold))
            scored += store.evaluation_micrographs(fold)
        assert len(scored) == len(set(scored))
    assert sorted(m.name for m in target.micrographs if m.index in target.evaluation_micrographs(0)) == [
        "m4",
        "m5",
    ]
    assert target.validation_micrographs(0) == []
    with pytest.raises(InputError, match="fold 3"):
        source.training_tiles(3, labelled=True)


def test_store_without_labels_never_hands_out_a_mask(stores):
    closed, opened = (Store(store_path(stores, "labelled"), labels=labels) for labels in (False, True))
    for micrograph in opened.micrographs:
        assert opened.mask(micrograph.index).shape == closed.image(micrograph.index).shape
        with pytest.raises(InputError, match="without labels"):
            closed.mask(micrograph.index)
    for tile in range(len(closed.tile_micrograph)):
        with pytest.raises(InputError, match="without labels"):
            closed.tile_mask(tile)
    with pytest.raises(InputError, match="has no mask"):
        Store(store_path(stores, "unlabelled")).tile_mask(0)


def _read(store, tiles):
    return [digest(store.tile_image(tile)) + digest(store.tile_mask(tile)) for tile in tiles]


def test_processes_read_the_same_store_at_once(stores):
    store = Store(store_path(stores, "source"))
    tiles = list(range(len(store.tile_micrograph)))
    expected = _read(store, tiles)  # the handle is open when the workers start
    # Not forked here: a test process has threads by now, and a fork of those may never end.
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(_read, [(store, tiles)] * 2) == [expected] * 2
    assert _read(pickle.loads(pickle.dumps(store)), tiles) == expected


def test_unfinished_truncated_and_foreign_files_do_not_open(stores, tmp_path):
    whole = store_path(stores, "source").read_bytes()
    seal = json.loads(whole[:512])
    old = (json.dumps(seal | {"schema": 0}).encode().ljust(511) + b"\n") + whole[512:]
    cases = {
        "truncated": whole[:-1000],
        "half-written": bytes(512) + whole[512:],
        "not a tile store": b"\x89HDF\r\n\x1a\n" + whole,
        "schema 0": old,
    }
    for message, content in cases.items():
        (tmp_path / "store.h5").write_bytes(content)
        with pytest.raises(InputError, match=message):
            Store(tmp_path / "store.h5")
    with pytest.raises(InputError, match="no tile store"):
        Store(tmp_path / "missing.h5")


def test_a_store_being_written_does_not_open(tmp_path):
    with StoreWriter(tmp_path / "a.h5", 16, 4) as writer:
        writer.add(np.zeros((40, 40), np.uint8), None, name="m", parent="m")
        with pytest.raises(InputError, match="half-written"):
            Store(writer.partial)
    assert not list(tmp_path.iterdir())


def test_verify_finds_a_flipped_byte_anywhere(stores, tmp_path):
    original = store_path(stores, "source").read_bytes()
    copy = tmp_path / "source.h5"
    for place in [3, 100, 511, *np.random.default_rng(0).integers(512, len(original), 20), len(original) - 1]:
        flipped = bytearray(original)
        flipped[place] ^= 0x10
        copy.write_bytes(flipped)
        with pytest.raises(InputError):
            open_intact(copy)
    copy.write_bytes(original)
    open_intact(copy)


def test_verify_prints_a_fingerprint_and_draws(stores, tmp_path, capsys):
    for name in ("source", "labelled"):
        shutil.copy(store_path(stores, name), tmp_path)
    main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "phase fraction" in printed and "2 stores verified" in printed
    assert (tmp_path / "contact_sheet.png").stat().st_size > 10_000


def test_verify_finds_images_in_test_and_training(stores):
    problems, _ = check_together([Store(store_path(stores, name)) for name in ("labelled", "unlabelled")])
    assert len(problems) == 2 and "m4" in problems[0]


def test_verify_finds_contents_that_disagree(tmp_path, capsys):
    path = tmp_path / "a.h5"
    provenance = [
        {
            "name": name,
            "file": name,
            "sha256": "same",
            "mask_file": name,
            "mask_sha256": "m",
            "fold": fold,
            "test": False,
        }
        for fold, name in enumerate("ab")
    ]
    parameters = {
        "domain": "a",
        "tile": 16,
        "overlap": 4,
        "scale": 1,
        "reference_pixel_size_nm": 1,
        "folds": 2,
    }
    with StoreWriter(path, 16, 4) as writer:
        for name, value in (("a", 1), ("b", 2)):
            image = np.zeros((20, 20), np.uint8)
            writer.add(image, np.full_like(image, value), name=name, parent=name)
        writer.tile_images[0] = 7
        writer.finish(parameters, provenance)
        writer.place()
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path)])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "image tiles of 'a' differ" in message
    assert "mask of 'b' has values other than 0 and 1" in message
    assert "a, b are one image" in message


def test_one_image_under_two_files_is_found_by_its_pixels(tmp_path):
    """As TIFF and PNG: over folds, the test set and domains. Black images are alike and no copies."""
    draw(tmp_path / "source", 3, seed=5, contrast=1.0)
    images, masks = (tmp_path / "source" / part for part in ("images", "masks"))
    for name in ("black0", "black1"):
        cv2.imwrite(str(images / f"{name}.png"), np.zeros((100, 90), np.uint8))
    tifffile.imwrite(images / "black0.tif", np.zeros((100, 90), np.uint8))
    (images / "black0.png").unlink()
    for name in ("black0", "black1"):
        shutil.copy(masks / "m0.png", masks / f"{name}.png")

    def verified(**domains):
        (tmp_path / "domains.toml").write_text(domains_toml(**domains))
        shutil.rmtree(tmp_path / "stores", ignore_errors=True)
        call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")
        return call(f"verify {tmp_path / 'stores'}")

    assert verified(source=annotated("source", folds=5))[0] == 0
    (tmp_path / "other" / "images").mkdir(parents=True)
    other = tmp_path / "other" / "images" / "copy.tif"
    tifffile.imwrite(other, cv2.imread(str(images / "m0.png"), cv2.IMREAD_GRAYSCALE), compression="deflate")
    domains = {"source": annotated("source", folds=5), "other": unannotated("other")}
    status, printed = verified(**domains)
    assert status == 0 and "one image in several domains: other/copy, source/m0" in printed
    domains["source"] = annotated("source", test=["m0"])
    status, printed = verified(**domains)
    assert status == 2 and "training there: other/copy, source/m0 (test); remove" in printed
    other.rename(images / "copy.tif")
    shutil.copy(masks / "m0.png", masks / "copy.png")
    for entry in (annotated("source", folds=6), domains["source"]):
        status, printed = verified(source=entry)
        assert status == 2 and "copy, m0 are one image but lie in different folds or in test" in printed


def test_copies_that_are_not_equal_are_warned_of(tmp_path):
    """Saved as JPEG for testing, tinted, and equal in one fold; two domains may show one field."""
    draw(tmp_path / "source", 4, seed=5, contrast=1.0)
    images, masks = (tmp_path / "source" / part for part in ("images", "masks"))
    text = domains_toml(source=annotated("source", test=["z9"]), target=unannotated("target"))
    (tmp_path / "domains.toml").write_text(text)
    shutil.copytree(images, tmp_path / "target" / "images")
    picture, mask = (cv2.imread(str(folder / "m0.png")) for folder in (images, masks))
    cv2.imwrite(str(images / "z9.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    shutil.copy(masks / "m0.png", masks / "z9.png")
    tinted = np.where(mask > 0, 0.7 * picture + (0, 0, 76), picture)
    cv2.imwrite(str(tmp_path / "target" / "images" / "m0_overlay.png"), tinted)
    shutil.copy(images / "m1.png", tmp_path / "target" / "images" / "m1 (2).png")
    assert call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")[0] == 0
    status, printed = call(f"verify {tmp_path / 'stores'}")
    assert status == 0 and printed.count("look like one field") == 2
    assert "m0, z9: look like one field, but lie in different folds or in test and training" in printed
    assert "m0, m0_overlay; m1, m1 (2): look like one field and count as several" in printed


def test_masks_of_one_phase_and_copied_masks_are_warned_of(tmp_path):
    """Also over folds. Masks of one phase are not called copies, nor are those of copied pictures."""
    draw(tmp_path / "source", 6, seed=5, contrast=1.0)
    images, masks = (tmp_path / "source" / part for part in ("images", "masks"))
    shutil.copy(masks / "m0.png", masks / "m1.png")
    for name, value in (("m2", 255), ("m3", 0), ("m4", 0)):
        cv2.imwrite(str(masks / f"{name}.png"), np.full((100, 90), value, np.uint8))
    cv2.imwrite(str(images / "copy.jpg"), cv2.imread(str(images / "m5.png")))
    shutil.copy(masks / "m5.png", masks / "copy.png")
    (tmp_path / "t.csv").write_text("name,fold\nm0,0\nm1,1\nm2,0\nm3,0\nm4,1\nm5,0\ncopy,0\n")
    for more, apart in (({}, ""), ({"micrographs": "t.csv"}, "; in different folds or")):
        (tmp_path / "domains.toml").write_text(domains_toml(source=annotated("source", **more)))
        assert call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'} --force")[0] == 0
        status, printed = call(f"verify {tmp_path / 'stores'}")
        assert status == 0 and "mask of 'm2' has no background" in printed
        assert printed.count("has no foreground") == 2 and printed.count("one mask") == 1
        assert f"m0, m1: have one mask and other pictures; was it copied, or is it one field{apart}" in printed
