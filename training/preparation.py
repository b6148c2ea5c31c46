"""The tiles of a run's domains: opened, checked against each other, and what of them belongs to the run."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from common.errors import InputError
from common.limits import IGNORED
from data.domains import TOO_FEW_ANNOTATED
from data.looks import OF_SOURCE, Fourier, Histogram, Looks, levels_by_micrograph
from data.rare import balanced, phase_pixels
from data.selection_file import read_selection
from data.store import Store, differences, store_path
from data.tiles import LabelledTiles, UnlabelledTiles
from data.views import TwoViews
from models.discriminator import SMALLEST_INPUT
from training.distributed import Processes
from training.weights import history_of

# How native micrographs of the domain in question were read: evaluate.py --images takes these as defaults.
NATIVE = ("pixel_size_nm", "invert", "information_bar")


def labelled_tiles(options: SimpleNamespace, target: UnlabelledTiles | None = None) -> LabelledTiles:
    """Open the annotated source: its training tiles with masks, in the looks asked for. InputError as of Store.

    target: that some looks are taken from.
    """
    store = Store(store_path(options.data, options.source))
    looks = None if vars(options).get("looks", "none") == "none" else _looks(options, store, target)
    rare = vars(options).get("rare_class_sampling", False)
    return LabelledTiles(store, options.fold, options.augmentation, options.seed, looks, rare)


def pixel_weights(
    options: SimpleNamespace, source: LabelledTiles, processes: Processes
) -> Callable[[Tensor], Tensor | None]:
    """Make the function from masks (N, 1, h, w) to the weight of each pixel in the loss; to None, where all are alike.

    --class-weights balanced: the rarer a phase is in the training tiles, the more it weighs.
    """
    if vars(options).get("class_weights", "none") == "none":
        return lambda masks: None
    weights = torch.zeros(IGNORED + 1)
    weights[: source.store.phases] = torch.from_numpy(balanced(phase_pixels(source.store, source.tiles)))
    weights = weights.to(processes.device)
    return lambda masks: weights[masks.long()]


def _looks(options: SimpleNamespace, source: Store, target: UnlabelledTiles | None) -> Looks:
    if options.looks == "fourier":
        look = Fourier(target.store, target.tiles, options.looks_beta)
    elif options.looks == "histogram":
        own = levels_by_micrograph(source, source.training_tiles(options.fold, labelled=True))
        look = Histogram(own, list(levels_by_micrograph(target.store, target.tiles).values()))
    else:
        look = OF_SOURCE[options.looks]
    return Looks(look, options.looks_share, options.looks_by_region)


def unlabelled_tiles(options: SimpleNamespace) -> UnlabelledTiles:
    """Open the target without its labels: its training tiles, or those of `--selection`. InputError likewise."""
    return UnlabelledTiles(_target(options), options.fold, options.augmentation, options.seed)


def two_views(options: SimpleNamespace) -> TwoViews:
    """Open the same tiles, in two views each."""
    return TwoViews(_target(options), options.fold, options.seed, options.masked_block, options.masked_share)


def _target(options: SimpleNamespace) -> Store:
    store = Store(store_path(options.data, options.target), labels=False, transductive=options.transductive)
    if options.selection:
        store.select(read_selection(options.selection, store, options.fold).tiles)
    return store


def preparation(options: SimpleNamespace, stores: Sequence[Store]) -> dict:
    """Describe what a run keeps of its stores, source first.

    That is how they were prepared, their fingerprints, and the SHA-256 of the micrographs that it, its starting weights
    or what translated its source have learnt from, by domain. It is never scored on one of `trained_on`; a score on one
    of `transductive` is called so.

    InputError when they were prepared differently, or hold nothing to train or validate on in `options.fold`.
    """
    _check(options, stores)
    return {
        **stores[0].preparation,
        "native": native_of(stores[-1]),
        "fingerprints": {store.domain: store.fingerprint for store in stores},
        **_history(options, stores),
    }


def native_of(store: Store) -> dict:
    """Describe the micrographs of a store as they were taken: what has to be done to others of their kind."""
    parameters = store.metadata["parameters"]
    return {key: parameters[key] for key in (*NATIVE, "match", "levels", "depth", "page") if key in parameters}


def _remedy(store: Store) -> str:
    """Remedy where a store has nothing to train on."""
    if not store.labels and all(one.test for one in store.micrographs):
        return "All its micrographs are in `test`. Give --transductive to adapt to them, without labels, or add others."
    return "Add micrographs to the domain."


def _history(options: SimpleNamespace, stores: Sequence[Store]) -> dict[str, dict[str, list[str]]]:
    parts = [history_of(vars(options).get("pretraining", "random"))]
    parts += [store.metadata["parameters"].get("translated", {}) for store in stores]
    for store in stores:
        tiles = store.training_tiles(options.fold, labelled=store.labels)
        own = {store.micrographs[index].sha256 for index in store.tile_micrograph[tiles]}
        parts.append({"transductive" if store.transductive else "trained_on": {store.domain: own}})
    found = {"trained_on": {}, "transductive": {}}
    for kind, seen in found.items():
        for domain, digests in (item for part in parts for item in part.get(kind, {}).items()):
            seen[domain] = sorted({*seen.get(domain, ()), *digests})
    return found


def _check(options: SimpleNamespace, stores: Sequence[Store]) -> None:
    source = stores[0]
    for store in stores:
        if different := differences(store.preparation, source.preparation, "here", "there"):
            raise InputError(
                f"{store.path}: prepared otherwise than {source.path} ({different}). Prepare both from one "
                "domains.toml."
            )
        if store.tile + 2 * store.overlap < SMALLEST_INPUT:
            raise InputError(
                f"{store.path}: tiles of {store.tile} + 2 x {store.overlap} px, the networks need {SMALLEST_INPUT}. "
                "Prepare it with larger tiles."
            )
        if not len(store.training_tiles(options.fold, labelled=store.labels)):
            raise InputError(f"{store.path}: no training tile in fold {options.fold}. {_remedy(store)}")
    annotated = [one for one in source.micrographs if one.labelled and not one.test]
    if len(annotated) < 2:
        raise InputError(f"{source.path}: {TOO_FEW_ANNOTATED.format(count=len(annotated))}")
    if not source.validation_micrographs(options.fold):
        raise InputError(
            f"{source.path}: holds out no annotated micrograph in fold {options.fold}. Give the domain `folds` in "
            "domains.toml and prepare it again."
        )
