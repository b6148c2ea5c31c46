"""Trained models as evaluate.py uses them: loaded, fitted to a domain's statistics, described for a score."""

import copy
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import models
from common.errors import InputError
from data.store import Store, classes_of, differences
from evaluation import scoring
from evaluation.inference import Network, by_symmetries, for_inference, predict, resized, window_batches
from evaluation.judge.remedies import Remedy
from evaluation.scoring import Predictor
from training.checkpoint import load_model
from training.configuration import digest_of
from training.experiments import FACTS, read_experiments, runs_root
from training.network import SINGLE_VALUE
from training.preparation import native_of
from training.weights import WHOLE, history

Reference = tuple[Path | str | None, float | str | None]  # run and mIoU that RDT is relative to
ADABN_BATCH = 16  # tiles


@dataclass
class Member:
    """A trained model and its origin. `label` is the checkpoint's name, mostly 'last'.

    remedy, levels: what is done to a micrograph first, and the source's grey levels, float64 (256,), for it.
    network: the name of the network in the checkpoint, which `has_teacher` where it holds a 'teacher' beside the
    'model'.
    tta: average over the eight symmetries of what the network is shown. image_share: of a micrograph's own batch-norm
    statistics beside the model's; None to take the model's as they are.
    """

    run: Path
    label: str
    model: torch.nn.Module
    config: dict
    preparation: dict
    step: int
    remedy: Remedy = field(default_factory=Remedy)
    levels: np.ndarray | None = None
    network: str = "model"
    has_teacher: bool = False
    tta: bool = False
    image_share: float | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the phases that it tells apart, by class."""
        return classes_of(self.preparation)

    def seen(self, image: np.ndarray) -> np.ndarray:
        """Micrograph uint8 (h, w) -> what the network is shown of it, uint8 (h', w')."""
        return self.remedy.apply(image, self.levels)

    def networks(self, device: torch.device | str) -> Callable[[np.ndarray], Network]:
        """Function from a micrograph as the network is shown it, uint8 (h, w), to the network for it, as it is now."""
        cut = {key: self.preparation[key] for key in ("tile", "overlap")}
        finished = by_symmetries if self.tta else lambda network: network

        def of_image(image: np.ndarray) -> Network:
            model = copy.deepcopy(self.model)
            try:
                models.mix_statistics(model, window_batches(image, **cut, device=device), self.image_share)
            except ValueError as error:
                if SINGLE_VALUE not in str(error):
                    raise
                raise InputError(
                    f"--adabn-by-image: a micrograph of {image.shape[1]} x {image.shape[0]} px gives a batch norm of "
                    f"{self.run} a single value a channel. Score without it, or prepare the source with larger tiles."
                ) from error
            return finished(for_inference(model))

        if self.image_share is not None:
            return of_image
        fixed = finished(for_inference(self.model))
        return lambda _: fixed

    def predictor(self, device: torch.device | str) -> Predictor:
        """Micrograph uint8 (h, w) -> probabilities float32 (C, h, w), by the network as it is now."""
        cut = {key: self.preparation[key] for key in ("tile", "overlap")}
        networks = self.networks(device)

        def predictor(image: np.ndarray) -> np.ndarray:
            seen = self.seen(image)
            return resized(predict(networks(seen), seen, **cut, device=device), image.shape)

        return predictor


def seen_by_each(members: Sequence[Member], image: np.ndarray) -> list[np.ndarray]:
    """Give what each member's network is shown of a micrograph uint8 (h, w); one array where it is the same."""
    found: dict[tuple, np.ndarray] = {}
    keys = [(member.remedy.shown, None if member.levels is None else member.levels.tobytes()) for member in members]
    for key, member in zip(keys, members, strict=True):
        found[key] = member.seen(image) if key not in found else found[key]
    return [found[key] for key in keys]


def load_member(path: Path | str, which: str, device: torch.device | str, network: str = "model") -> Member:
    """Load a run folder's checkpoint `which` ('last', 'best', 'epoch100'), or a .pt file, onto the device: a Member.

    InputError as of training.checkpoint.load, and where it does not hold the network.
    """
    model, state = load_model(path, which, network)
    path = Path(path)
    run, label = (path, which) if path.is_dir() else (path.parent, path.stem)
    model.to(device, memory_format=torch.channels_last)
    if label == "last" and state["step"] < state["config"]["iterations"]:
        done = f"step {state['step']} of {state['config']['iterations']}"
        print(f"remark: {run} is not finished: its last checkpoint is of {done}", file=sys.stderr)
    made = state.get("remedy")
    remedy = {"remedy": Remedy(**made["changes"]), "levels": np.array(made["levels"])} if made else {}
    networks = {"network": network, "has_teacher": "teacher" in state}
    return Member(run, label, model, state["config"], state["preparation"], state["step"], **remedy, **networks)


def by_fold(members: Iterable[Member]) -> list[Member]:
    """Sort members by their fold, so that the order in which runs are given changes nothing."""
    return sorted(members, key=lambda member: str(member.config.get("fold")))


def require_once(runs: Iterable[Path | str]) -> None:
    """Raise InputError where one run or checkpoint is given twice: it would count as several models."""
    seen = set()
    for run in runs:
        if (place := Path(run).resolve()) in seen:
            raise InputError(f"{run}: is given twice. Give each run once.")
        seen.add(place)


def chosen_runs(path: Path) -> tuple[list[str], bool]:
    """Give the runs that a choice.json names, by paths from its folder, and if several kinds of them vote.

    InputError where it is damaged.
    """
    try:
        content = json.loads(path.read_text())
        runs = content["runs"]
        if not runs or not all(isinstance(run, str) for run in runs):
            raise ValueError("no runs in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable choice ({error}). Run evaluation.choose again.") from error
    # Those of before November 2026 have paths as they were typed.
    there = [found if (found := path.parent / run).exists() else Path(run) for run in runs]
    for run in there:
        if not run.exists():
            raise InputError(
                f"{path}: names the model {run}, which is not there from here. Move the folder of the choice as a "
                "whole, with the runs that it names, or run evaluation.choose again."
            )
    return list(map(str, there)), content.get("vote", False)  # files of before December 2026 have none


def generalization_row(path: Path | str, name: str, fold: int, checkpoint: str) -> dict:
    """Configuration that a generalization row of the study's tables (T1.4) evaluates.

    It has the values of the row's supervised experiment, and `experiment`, `domain`, `run` (S.4), `run_dir`, `fold` and
    `checkpoint`; `epochs` counts up to the checkpoint. path: the file of experiments. InputError: unknown, or no such
    row.
    """
    experiments = read_experiments(path)
    if name not in experiments:
        raise InputError(f"--experiment {name}: not in {path}. There are: {', '.join(experiments)}.")
    row = experiments[name]
    if "run" not in row:
        raise InputError(
            f"--experiment {name} is trained by {row['script']}.py; give its run folder here, or a generalization row"
        )
    values = {key: value for key, value in experiments[row["run"]].items() if key not in FACTS}
    if checkpoint.removeprefix("epoch").isdecimal():
        values["epochs"] = int(checkpoint.removeprefix("epoch"))
    folder = str(runs_root(path) / row["run"] / f"fold{fold}")
    place = {"domain": row["domain"], "run": row["run"], "run_dir": folder, "fold": fold, "checkpoint": checkpoint}
    return {"script": "evaluate", **values, "experiment": name, **place}


def fit_to_domain(member: Member, store: Store, adabn: bool, device: torch.device | str) -> None:
    """Choose the batch-norm statistics for a domain's store: the target's where the model was adapted to it.

    With `adabn` they are re-estimated on the domain's training tiles, uint8 (n, 1, T, T) at a time (Li et al., 2016).
    InputError: a store prepared otherwise than the model's data, nothing to estimate from, a model without batch norm.
    """
    require_same_preparation(member, store)
    if member.preparation.get("fingerprints", {}).get(store.domain, store.fingerprint) != store.fingerprint:
        _tell_of_change(member, store)
    models.set_domain(member.model, "target" if member.config.get("target") == store.domain else "source")
    if adabn:
        if member.remedy != Remedy():
            raise InputError(
                f"{member.run / member.label}.pt: carries a remedy ({member.remedy}), so --adabn would take "
                "statistics of micrographs that it never sees. evaluation.gap puts them in the file where they help."
            )
        tiles = store.training_tiles(member.config["fold"], labelled=False)
        require_batch_norm(member, "--adabn")
        if not len(tiles):
            raise InputError(f"{store.path}: no training tiles outside the test set, which --adabn needs")
        # Of equal size, because all batches weigh the same in the estimate.
        batches = np.array_split(tiles, -(-len(tiles) // ADABN_BATCH))
        progress = tqdm(batches, desc=f"statistics of {store.domain}", unit="batch")
        images = (np.stack([store.tile_image(i) for i in batch])[:, None] for batch in progress)
        try:
            models.reestimate_statistics(member.model, (torch.from_numpy(batch).to(device) for batch in images))
        except ValueError as error:
            if SINGLE_VALUE not in str(error):
                raise
            raise InputError(
                f"{store.path}: --adabn needs more than its one training tile, of which batch norm gets a single value "
                "a channel. Add micrographs, or prepare it and the source with larger tiles."
            ) from error


def require_batch_norm(member: Member, option: str) -> None:
    """Raise InputError where a model has no batch norm whose statistics an option could change."""
    if not any(isinstance(module, torch.nn.BatchNorm2d) for module in member.model.modules()):
        raise InputError(f"{member.run}: {member.config['model']} has no batch norm, {option} changes nothing")


def read_otherwise(member: Member, store: Store) -> str:
    """Say in what a store's micrographs are read otherwise than when a member was adapted to it; '' in nothing."""
    if member.config.get("target") != store.domain:
        return ""
    before, now = member.preparation.get("native", {}), native_of(store)
    keys = [key for key in now | before if key != "levels" and before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key)} then, {now.get(key)} now" for key in keys)


def _tell_of_change(member: Member, store: Store) -> None:
    """Print that a store has changed since the training, and a warning where its target was read otherwise then."""
    if read := read_otherwise(member, store):
        print(
            f"warning: {store.path}: read otherwise than when {member.run} was adapted to it ({read}), so a score "
            "says little. Give the --data of that time.",
            file=sys.stderr,
        )
        return
    print(f"remark: {store.path} has changed since {member.run} was trained on it", file=sys.stderr)


def require_same_preparation(member: Member, store: Store) -> None:
    """Raise InputError where a store's micrographs were not prepared as those that the model was made for.

    A checkpoint with a remedy changes them itself, so polarity and grey levels have to be what they were then, too.
    """
    if differing := differences(member.preparation, store.preparation, "in the checkpoint", "in the store"):
        raise InputError(
            f"{store.path}: prepared otherwise than the data of {member.run} ({differing}). "
            "Run data.prepare with the checkpoint's values."
        )

    if member.remedy != Remedy() and native_of(store) != member.preparation["native"]:
        raise InputError(
            f"{store.path}: {member.run / member.label}.pt changes micrographs ({member.remedy}) that were prepared "
            "otherwise (pixel_size_nm, invert, information_bar or match). Run evaluation.gap again on this store."
        )


def refuse_trained_on(member: Member, store: Store, micrographs: list[int]) -> None:
    """Raise InputError where a micrograph (index) to be scored was trained on, whatever store it was in then."""
    for index in micrographs:
        micrograph = store.micrographs[index]
        for domain, digests in history(member.config, member.preparation)["trained_on"].items():
            if micrograph.sha256 in digests:
                raise InputError(
                    f"{store.path}: '{micrograph.name}' is to be scored, but {member.run} was trained on it, as a "
                    f"micrograph of {domain}. Restore the store of that time, or train again."
                )


def has_seen(member: Member, store: Store, micrographs: Iterable[int]) -> bool:
    """Tell if a model has learnt from one of these held-out micrographs (index), without its label.

    By --transductive, in its own training or in what that began with.
    """
    scored = {store.micrographs[index].sha256 for index in micrographs}
    return any(
        not scored.isdisjoint(digests) or (WHOLE in digests and domain == store.domain)
        for domain, digests in history(member.config, member.preparation)["transductive"].items()
    )


def described(members: list[Member], transductive: bool) -> dict:
    """Facts of score.json about the models: one value where all agree, else None.

    transductive: a model has seen the micrographs that are scored; null for a model of the source that has not.
    """
    names = ("experiment", "model", "source", "target", "seed", "fold")
    facts = {name: agreed(m.config.get(name) for m in members) for name in names}
    adapted = any(m.config.get("target") for m in members)
    facts["transductive"] = transductive if transductive or adapted else None
    facts["configuration"] = agreed(digest_of(m.config) for m in members)
    facts |= {"checkpoint": agreed(m.label for m in members), "step": agreed(m.step for m in members)}
    return facts | {"runs": [str(m.run) for m in members], "steps": [m.step for m in members]}


def agreed(values: Iterable) -> object:
    """The one value of several that are equal; None where they are not."""
    values = list(values)
    return values[0] if all(value == values[0] for value in values) else None


def reference_of(member: Member, domain: str, variant: str) -> Reference:
    """Run and mIoU that RDT is relative to: the matching supervised run on the source; mIoU None if not scored.

    A supervised run is its own reference. While its plain score on the source is being made, the mIoU is 'own'.
    """
    run = member.config.get("reference") or (None if member.config.get("target") else member.run)
    if run is None:
        print(f"remark: {member.run} names no --reference, so there is no RDT", file=sys.stderr)
        return None, None
    if Path(run) == member.run and domain == member.config["source"] and variant == "plain":
        return run, "own"
    known = scoring.read_config(run) if (Path(run) / "config.json").is_file() else {}
    source = known.get("source", member.config["source"])
    path = scoring.score_folder(run, source, member.label, "plain") / "score.json"
    if not path.is_file():
        print(f"remark: no RDT without {path}; evaluate {run} on {source} first", file=sys.stderr)
        return run, None
    score = scoring.read_score(path)
    if scoring.outdated(path, score):
        print(f"remark: no RDT by {path}, of before {run} was finished; evaluate it again", file=sys.stderr)
        return run, None
    return run, score["miou"]
