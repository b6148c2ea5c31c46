"""Translation equals its published recipe, resumes bit for bit, divides among processes, and leaves a store."""

import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, command, domains_toml, run
from short_runs import differences, metrics, supervised_arguments, translation_arguments

import train_translation
from common.errors import InputError
from data.store import Store
from data.tiles import BatchStream, LabelledTiles, UnlabelledTiles
from evaluation.translate import translate
from models.translator import Generator, RealOrTranslated, Translators
from training import checkpoint, distributed
from training.configuration import digest_of, parse, refuse_changes
from training.network import frozen_reference
from training.options import parser_of


def here(stores, supervised, folder, *more):
    """Train in this process."""
    config = parse("train_translation", "", translation_arguments(stores, folder, "--reference", supervised, *more))
    distributed.together(train_translation.train, SimpleNamespace(**config))
    return checkpoint.load(folder)


def test_updates_equal_the_published_recipe(stores, supervised, tmp_path):
    """Three steps of Equations 1 to 3 of Zhu et al. (2017) with the identity loss of Section 5.2, as squares.

    The generators are updated for the discriminators of the step before, as everywhere here, and no pool of earlier
    pictures is kept.
    """
    more = (
        "--schedule",
        "constant",
        "--discriminator-learning-rate",
        2e-4,
        "--lambda-cycle",
        10,
        "--lambda-identity",
        5,
    )
    state = here(stores, supervised, tmp_path / "run", "--steps", 3, *more)
    torch.manual_seed(0)
    generators, judges = Translators(12, 3), RealOrTranslated(16)
    g, f = generators.to_target, generators.to_source
    d_x, d_y = judges.networks["source"], judges.networks["target"]
    optimizers = [torch.optim.Adam(m.parameters(), lr=rate, betas=(0.5, 0.999))
                  for m, rate in ((generators, 1e-3), (judges, 2e-4))]  # fmt: skip
    source = LabelledTiles(Store(stores / "source.h5"), 0, "basic", 0)
    target = UnlabelledTiles(Store(stores / "labelled.h5", labels=False), 0, "basic", 0)
    orders = [list(BatchStream(len(t), 4, 0, 3, 0, t.store.domain)) for t in (source, target)]
    for step in range(3):
        x, y = (torch.stack([tiles[at][0] for at in order[step]]).float()
                for tiles, order in ((source, orders[0]), (target, orders[1])))  # fmt: skip
        fake_y, fake_x = g(x), f(y)
        seen = lambda image: 2 * image / 255 - 1  # noqa: E731
        loss = ((d_y(seen(fake_y)) - 1) ** 2).mean() + ((d_x(seen(fake_x)) - 1) ** 2).mean()
        loss = loss + 10 * ((seen(f(fake_y)) - seen(x)).abs().mean() + (seen(g(fake_x)) - seen(y)).abs().mean())
        loss = loss + 5 * ((seen(g(y)) - seen(y)).abs().mean() + (seen(f(x)) - seen(x)).abs().mean())
        of_generators = torch.autograd.grad(loss, list(generators.parameters()), retain_graph=True)
        loss_d = sum(
            ((d(seen(real)) - 1) ** 2).mean() / 2 + (d(seen(fake.detach())) ** 2).mean() / 2
            for d, real, fake in ((d_y, y, fake_y), (d_x, x, fake_x))
        )
        of_judges = torch.autograd.grad(loss_d, list(judges.parameters()))
        for module, gradients in ((generators, of_generators), (judges, of_judges)):
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    for name, module in (("model", generators), ("discriminators", judges)):
        for key, value in module.named_parameters():
            # Adam makes more of rounding where a gradient is near its epsilon. Three steps are of up to 1e-3.
            assert torch.allclose(state[name][key], value, rtol=1e-4, atol=2e-4), (name, key)


def test_every_option_of_a_translation_changes_the_weights(stores, supervised, tmp_path):
    short = ("--steps", 2, "--batch-size", 2)
    plain = here(stores, supervised, tmp_path / "plain", *short)["model"]
    own = {"generator_width": 8, "generator_blocks": 2, "discriminator_width": 8, "discriminator_learning_rate": 0.01,
           "lambda_cycle": 1, "lambda_identity": 1, "lambda_semantic": 1}  # fmt: skip
    for option, value in own.items():
        changed = here(stores, supervised, tmp_path / option, *short, f"--{option.replace('_', '-')}", value)["model"]
        different = [key for key in plain if key not in changed or plain[key].shape != changed[key].shape
                     or not torch.equal(plain[key], changed[key])]  # fmt: skip
        assert different, option
    groups = {group.title: group._group_actions for group in parser_of("train_translation")._action_groups}
    assert {action.dest for action in groups["translation"]} == own.keys()


def test_no_translation_is_asked_to_compile(stores, tmp_path, capsys):
    """Its networks are never compiled, and a run of before, which has the option in its record, goes on."""
    words = translation_arguments(stores, tmp_path / "run", "--reference", "frozen")
    with pytest.raises(SystemExit) as stopped:
        parse("train_translation", "", [*words, "--compile"])
    assert stopped.value.code == 2 and "unrecognized arguments: --compile" in capsys.readouterr().err
    config = parse("train_translation", "", words)
    before = config | {"compile": False}
    refuse_changes(tmp_path / "run", before, config)
    assert "compile" not in config and digest_of(before) == digest_of(config)


def test_a_resumed_translation_equals_an_undisturbed_one(stores, supervised, tmp_path):
    more = ("--steps", 6, "--checkpoint-every", 3, "--lambda-semantic", 1)
    here(stores, supervised, tmp_path / "full", *more)
    shutil.copytree(tmp_path / "full", tmp_path / "resumed")
    for name in ("best.pt", "finished.json"):
        (tmp_path / "resumed" / name).unlink()
    os.replace(tmp_path / "resumed" / "previous.pt", tmp_path / "resumed" / "last.pt")
    here(stores, supervised, tmp_path / "resumed", *more)
    assert differences(tmp_path / "full", tmp_path / "resumed") == []


def test_two_processes_translate_as_one_does(stores, supervised, tmp_path):
    more = ("--steps", 4, "--lambda-semantic", 1, "--reference", supervised)
    line = command("train_translation.py", *translation_arguments(stores, tmp_path / "two", *more), processes=2)
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    here(stores, supervised, tmp_path / "one", *more)
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, abs=1e-4, rel=1e-3)


def test_no_window_shows_in_a_translated_micrograph(stores):
    """It is translated in windows, of sides that need not suit the strides."""
    generator, store = Generator(4, 1).eval(), Store(stores / "source.h5")
    image = store.image(0)
    torch.nn.init.normal_(generator.layers[-1].weight, std=0.2)
    odd = torch.from_numpy(image[:61, :47].copy())[None, None]
    assert generator(odd).shape == odd.shape
    whole = generator(torch.from_numpy(image)[None, None])[0, 0].detach().numpy()
    windows = translate(generator, image, store, "cpu").astype(int)
    inner = slice(32, -32)
    assert np.abs(whole - windows)[inner, inner].max() < 1.5 and np.abs(whole - image).max() > 3


def test_a_translation_comes_nearer_to_the_target(stores, supervised, tmp_path):
    """In grey levels, where the target is the source in others; the structure stays."""
    source = Store(stores / "source.h5")
    (tmp_path / "bright").mkdir()
    for one in source.micrographs:
        cv2.imwrite(
            str(tmp_path / "bright" / f"{one.name}.png"), (source.image(one.index) * 0.4 + 140).astype(np.uint8)
        )
    bright = {"images": "bright", "pixel_size_nm": 50}
    named = {"source": bright | {"images": str(tmp_path / "bright")}, "bright": bright}
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL, **named))
    run("-m", "data.prepare", tmp_path / "domains.toml", "--domain", "bright", "--out", tmp_path / "stores")
    os.link(stores / "source.h5", tmp_path / "stores" / "source.h5")
    more = ("--steps", 80, "--batch-size", 2, "--validate-every", 999, "--target", "bright")
    state = here(tmp_path / "stores", supervised, tmp_path / "run", *more)
    translators = Translators(12, 3)
    translators.load_state_dict(state["model"])
    translators.requires_grad_(False)
    before, after = [], []
    for one in source.micrographs:
        image = source.image(one.index)
        there = translate(translators.to_target, image, source, "cpu")
        assert np.corrcoef(image.ravel(), there.ravel())[0, 1] > 0.7
        for distances, shown in ((before, image), (after, there)):
            distances.append(np.abs(np.sort(shown, None) - np.sort(image * 0.4 + 140, None)).mean())
    assert np.mean(after) < 0.5 * np.mean(before), (np.mean(before), np.mean(after))


def test_the_translated_source_is_trained_on(stores, supervised, tmp_path):
    folder = tmp_path / "translation"
    here(stores, supervised, folder, "--steps", 4)
    said = run("-m", "evaluation.translate", folder, "--data", stores, "--pictures", 1).stdout
    assert "held-out micrographs: " in said and "translated" in said
    assert cv2.imread(str(folder / "translated.jpg")).std() > 10
    source, translated = Store(stores / "source.h5"), Store(folder / "stores" / "source-as-labelled.h5")
    assert translated.preparation == source.preparation and len(translated.micrographs) == len(source.micrographs)
    for one, other in zip(source.micrographs, translated.micrographs, strict=True):
        assert (one.name, one.test, one.fold) == (other.name, other.test, other.fold)
        assert np.array_equal(source.mask(one.index), translated.mask(other.index))
    trained = supervised_arguments(folder / "stores", tmp_path / "run", "--source", "source-as-labelled", "--steps", 2)
    run("train_supervised.py", *trained)
    assert "source-as-labelled" in json.loads((tmp_path / "run" / "config.json").read_text())["source"]
    held_out = [source.micrographs[index].sha256 for index in source.validation_micrographs(0)]
    seen = checkpoint.load(tmp_path / "run")["preparation"]["trained_on"]["source-as-labelled"]
    assert seen and not set(seen) & set(held_out)
    assert "give one of train_translation.py" in run("-m", "evaluation.translate", supervised, ok=False).stderr


def test_a_translated_source_tells_of_micrographs_that_were_seen_for_it(stores, supervised, tmp_path):
    """Of fold 0, it has learnt from the other folds of the source; transductive, from the target's test set too."""
    folder = tmp_path / "translation"
    here(stores, supervised, folder, "--steps", 1, "--transductive")
    run("-m", "evaluation.translate", folder, "--data", stores, "--pictures", 1)
    more = ("--source", "source-as-labelled", "--steps", 1, "--fold")
    for fold in (0, 1):
        arguments = supervised_arguments(folder / "stores", tmp_path / f"fold{fold}", *more, fold)
        run("train_supervised.py", *arguments)
    score = ("--data", stores, "--wandb", "disabled", "--domain")
    assert (
        "fold0/evaluation/labelled: transductive, " in run("evaluate.py", tmp_path / "fold0", *score, "labelled").stdout
    )
    assert "transductive" not in run("evaluate.py", tmp_path / "fold0", *score, "source").stdout
    assert "is to be scored, but" in run("evaluate.py", tmp_path / "fold1", *score, "source", ok=False).stderr


def test_a_translation_asks_for_a_reference_of_its_source(stores, supervised, tmp_path):
    """One that sees the store's phases at the store's scale, and is scored on what it was not trained on."""
    source, known = Store(stores / "source.h5"), checkpoint.load(supervised)
    with pytest.raises(InputError, match="--reference: give a supervised run"):
        frozen_reference(None, source, 0, "cpu")
    held_out = [one.sha256 for one in source.micrographs if one.fold == 0]
    for key, value, words in (
        ("scale", 0.5, r"scale 0\.5 in the run, 1\.0 in the store"),
        ("classes", ["matrix", "pore"], "phases matrix, pore in the run, background, foreground in the store"),
        ("trained_on", {"before": held_out[:1]}, "was trained on 'm.', on which it is to be scored"),
    ):
        path = tmp_path / f"{key}.pt"
        checkpoint.save(path, known | {"preparation": known["preparation"] | {key: value}})
        with pytest.raises(InputError, match=f"{path}: .*{words}"):
            here(stores, path, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"Give a supervised run of fold 1\."):
        here(stores, supervised, tmp_path / "run", "--fold", 1)
    here(stores, supervised, tmp_path / "run", "--steps", 1)
    state = checkpoint.load(tmp_path / "run")
    state["config"]["reference"] = str(tmp_path / "scale.pt")
    checkpoint.save(tmp_path / "run" / "last.pt", state)
    said = run("-m", "evaluation.translate", tmp_path / "run", "--data", stores, ok=False).stderr
    assert "scale 0.5 in the run" in said and not (tmp_path / "run" / "stores").exists()
