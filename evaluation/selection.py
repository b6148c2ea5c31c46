"""Choose a target's training tiles by the phase fraction of their pseudo-labels (paper Table 1, Sections 2.2 and 4.3).

    python -m evaluation.selection runs/T3.2/fold* --domain t3 --mean 0.28 --out runs/selections/t3v.json \\
        --test-mean 0.4 --test-images 12                       # the study's T3v, with its common test set
    python -m evaluation.selection runs/S.10/fold0 --domain t2 --mean 0.53 --out selections/t2.json

The runs segment the training micrographs, several runs as one ensemble; no label is read. Tiles are kept so that their
mean phase fraction is --mean and the histogram stays as wide as can be. The file goes to
`train_uda.py --selection`; a CSV of all tiles and a histogram are written beside it. The test micrographs, which no
selection ever trains on, can be chosen to a mean too, by their labels; only `evaluate.py --selection` uses that.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.selection")

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from common.errors import InputError, exits_cleanly
from common.files import write_csv, write_figure
from common.limits import IGNORED
from common.seeds import generator
from data.masks import phase_fraction
from data.selection_file import write_selection
from data.store import Store, phase_of, store_path
from evaluation.members import fit_to_domain, load_member
from evaluation.scoring import Predictor, ensemble
from models import classes
from training.device import choose_algorithms, choose_device

CLOSE = 0.005  # a mean that is this near to the wanted one needs no further exchange
REACHED = 0.02  # one that is not even this near is an error
SPARING = 1.25  # discards, relative to the fewest that would do: so they come from all of the histogram, not its end
LEAST = 0.25  # fraction that is left where no number is given: a few tiles of the wanted mean are no training set
_STEEPEST, _HALVINGS = 1e4, 60


def pseudo_fractions(predictor: Predictor, store: Store, tiles: np.ndarray, phase: int = 1) -> np.ndarray:
    """Fraction of a phase in each tile's pseudo-label, float64 (n,), over its centre region within the micrograph.

    By default it is that of the foreground. The context of neighbouring tiles and the mirrored padding do not count:
    every pixel of a micrograph counts once.
    predictor: image uint8 (h, w) -> probabilities (C, h, w). tiles: int64 (n,) of a store; no mask of it is read.
    """
    fractions = np.empty(len(tiles))
    owners = store.tile_micrograph[tiles]
    for micrograph in tqdm(np.unique(owners), desc=f"pseudo-labels of {store.domain}", unit="image"):
        label = classes(predictor(store.image(micrograph)))
        for place in np.flatnonzero(owners == micrograph):
            row, column = store.tile_position[tiles[place]]
            fractions[place] = (label[row : row + store.tile, column : column + store.tile] == phase).mean()
    return fractions


def choose(fractions: np.ndarray, wanted: float, count: int | None = None, seed: int = 0) -> np.ndarray:
    """Ascending positions int64 (n,) of a choice from `fractions` (N,) whose mean is `wanted`, as wide as can be.

    Each item is kept with a probability. Among those that give n and the wanted mean, the ones of greatest entropy are
    1 / (1 + exp(-a - b fraction)). A systematic sample of them, in order of the fractions, represents every range
    of the histogram to within one item; exchanges of single items then remove what is left of the difference.
    Without `count` as many are kept as possible, but SPARING times the fewest discards, which would cut one end off.
    ValueError, which says what can be reached: the mean cannot, or without `count` only by fewer items than the
    fraction LEAST.
    """
    fractions = np.asarray(fractions, float)
    ordered = np.sort(fractions)
    if not len(ordered) or not ordered[0] - REACHED <= wanted <= ordered[-1] + REACHED:
        reach = f"are {ordered[0]:.3f} .. {ordered[-1]:.3f}" if len(ordered) else "do not exist"
        raise ValueError(f"mean {wanted:g}: cannot be reached, the phase fractions {reach}")
    if count is None:
        most, least = _most(ordered, wanted), int(np.ceil(LEAST * len(ordered)))
        if most < least:
            reach = f"{ordered[:least].mean():.3f} .. {ordered[-least:].mean():.3f}"
            raise ValueError(
                f"mean {wanted:g}: would leave {most} of {len(ordered)}; with a quarter of them the mean can be {reach}"
            )
        count = max(least, len(ordered) - round(SPARING * (len(ordered) - most)))
    if count > len(ordered):
        raise ValueError(f"{count} wanted: there are {len(ordered)}")
    lowest, highest = ordered[:count].mean(), ordered[-count:].mean()
    if not lowest - REACHED <= wanted <= highest + REACHED:
        raise ValueError(f"mean {wanted:g}: cannot be reached with {count}, only {lowest:.3f} .. {highest:.3f}")
    chosen = _systematic_sample(fractions, _probabilities(fractions, wanted, count), count, seed)
    _exchange(fractions, chosen, wanted)
    reached = fractions[chosen].mean()
    if abs(reached - wanted) > REACHED:
        raise ValueError(f"mean {wanted:g}: cannot be reached with {count}, the nearest found is {reached:.3f}")
    return np.flatnonzero(chosen)


def _most(ordered: np.ndarray, wanted: float) -> int:
    """The largest number of ascending fractions that can have the wanted mean: an end of them is discarded."""
    if abs(ordered.mean() - wanted) <= CLOSE:
        return len(ordered)
    if ordered.mean() < wanted:
        ordered, wanted = -ordered[::-1], -wanted
    means = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)  # grows with the number
    return max(1, int(np.searchsorted(means, wanted + CLOSE, side="right")))


def _probabilities(fractions: np.ndarray, wanted: float, count: int) -> np.ndarray:
    """Probabilities 1 / (1 + exp(-a - b fraction)), float64 (N,), of sum `count` and of a mean nearest to `wanted`."""
    low, high = -_STEEPEST, _STEEPEST
    for _ in range(_HALVINGS):  # the mean grows with b
        b = (low + high) / 2
        probabilities = _with_sum(b * (fractions - wanted), count)
        low, high = (b, high) if probabilities @ (fractions - wanted) < 0 else (low, b)
    return probabilities


def _with_sum(exponents: np.ndarray, count: int) -> np.ndarray:
    low, high = -exponents.max() - 50, -exponents.min() + 50
    for _ in range(_HALVINGS):
        a = (low + high) / 2
        probabilities = (1 + np.tanh((a + exponents) / 2)) / 2
        low, high = (a, high) if probabilities.sum() < count else (low, a)
    return probabilities


def _systematic_sample(fractions: np.ndarray, probabilities: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw a bool (N,) with `count` true: one for every whole number that the running sum of probabilities passes."""
    rng = generator(seed, "selection")
    order = np.lexsort((rng.random(len(fractions)), fractions))  # equal fractions in random order
    sums = np.cumsum(probabilities[order])
    places = np.searchsorted(sums * (count / sums[-1]), rng.random() + np.arange(count), side="right")
    chosen = np.zeros(len(fractions), bool)
    chosen[order[places]] = True
    return chosen


def _exchange(fractions: np.ndarray, chosen: np.ndarray, wanted: float) -> None:
    """Exchange single items, each time the two that bring the mean nearest, until it is CLOSE or does not improve."""
    while chosen.any() and not chosen.all():
        excess = (fractions[chosen] - wanted).sum()
        if abs(excess) <= CLOSE * chosen.sum():
            return
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        outside = outside[np.argsort(fractions[outside], kind="stable")]
        ideal = fractions[inside] - excess
        above = np.searchsorted(fractions[outside], ideal).clip(0, len(outside) - 1)
        pairs = [(i, outside[k]) for i, k in zip(inside, above, strict=True)]
        pairs += [(i, outside[k]) for i, k in zip(inside, (above - 1).clip(0), strict=True)]
        left = np.array([abs(excess + fractions[new] - fractions[old]) for old, new in pairs])
        if left.min() >= abs(excess):
            return
        old, new = pairs[int(left.argmin())]
        chosen[old], chosen[new] = False, True


def draw_histogram(path: Path, fractions: np.ndarray, chosen: np.ndarray, wanted: float, domain: str) -> None:
    """Save the histogram of the tiles' pseudo-label fractions before and after, means and the wanted mean marked."""
    figure = Figure((6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, 1, 21)
    drawn = (("all training tiles", fractions, "0.75"), ("selected", fractions[chosen], "C0"))
    for name, values, colour in drawn:
        text = f"{name}: {len(values)}, mean {values.mean():.3f}"
        axes.hist(values, bins, color=colour, edgecolor="white", linewidth=0.5, label=text)
    axes.axvline(fractions.mean(), color="0.4", linestyle=":", label="mean of all")
    axes.axvline(wanted, color="black", linewidth=1.2, label=f"wanted mean {wanted:g}")
    axes.set(xlim=(0, 1), xlabel="phase fraction of the pseudo-label", ylabel="tiles")
    axes.set_title(f"{domain}: training tiles", fontsize=10, parse_math=False)
    axes.legend(fontsize=8, frameon=False)
    write_figure(path, figure)


def select(options: argparse.Namespace) -> None:
    """Write the selection that the options ask for, and print the means reached."""
    path, out = store_path(options.data, options.domain), Path(options.out)
    choose_algorithms(deterministic=False, amp="off")  # inference is in float32
    device = choose_device(options.device)
    store = Store(path, labels=False)
    phase = phase_of(options.phase, store.classes)
    tiles = store.training_tiles(options.fold, labelled=False)
    if not len(tiles):
        raise InputError(f"{path}: has no training tile to choose from. Add micrographs outside the test set.")
    test = _choose_test(Store(path), options) if options.test_mean is not None else []
    members = [load_member(run, options.checkpoint, device) for run in options.runs]
    for member in members:
        fit_to_domain(member, store, False, device)
    fractions = pseudo_fractions(ensemble([member.predictor(device) for member in members]), store, tiles, phase)
    chosen = _chosen(path, "training tiles by pseudo-label", fractions, options.mean, options.tiles, options.seed)
    made_by = {
        "runs": [str(member.run) for member in members], "checkpoint": options.checkpoint, "mean": options.mean,
        "tiles": options.tiles, "fold": options.fold, "seed": options.seed, "test_mean": options.test_mean,
        "test_images": options.test_images, "mean_before": float(fractions.mean()),
        "mean_reached": float(fractions[chosen].mean()),
    } | ({"phase": options.phase} if options.phase else {})  # fmt: skip
    by_tile = dict(zip(tiles[chosen].tolist(), fractions[chosen].tolist(), strict=True))
    write_selection(out, store, by_tile, test, made_by)
    kept = np.isin(np.arange(len(tiles)), chosen)
    rows = [
        {"tile": int(tile), "micrograph": store.micrographs[store.tile_micrograph[tile]].name}
        | dict(zip(("row", "column"), store.tile_position[tile].tolist(), strict=True))
        | {"phase_fraction": float(fraction), "selected": int(one)}
        for tile, fraction, one in zip(tiles, fractions, kept, strict=True)
    ]
    write_csv(out.with_suffix(".csv"), rows)
    draw_histogram(out.with_suffix(".png"), fractions, chosen, options.mean, store.domain)
    print(f"{out}: also {out.with_suffix('.csv').name} and {out.with_suffix('.png').name}")


def _choose_test(store: Store, options: argparse.Namespace) -> list[str]:
    """Choose test micrographs, by name, by the phase fraction of their labels. They are only ever scored on."""
    test = store.test_micrographs()
    if not test:
        raise InputError(f"{store.path}: has no test micrograph. Name some in domains.toml, or leave --test-mean out.")
    test = [index for index in test if np.any(store.mask(index) != IGNORED)]
    phase = phase_of(options.phase, store.classes)
    fractions = np.array([phase_fraction(store.mask(index), phase) for index in test])
    name = "test micrographs by label"
    chosen = _chosen(store.path, name, fractions, options.test_mean, options.test_images, options.seed)
    return [store.micrographs[test[place]].name for place in chosen]


def _chosen(path: Path, name: str, fractions: np.ndarray, wanted: float, count: int | None, seed: int) -> np.ndarray:
    try:
        chosen = choose(fractions, wanted, count, seed)
    except ValueError as error:
        raise InputError(f"{path}: {name}, {error}. Give another mean, or a number of them.") from error
    print(
        f"{name}: {len(chosen)} of {len(fractions)} chosen, mean phase fraction {fractions.mean():.3f} -> "
        f"{fractions[chosen].mean():.3f} (wanted {wanted:g}), standard deviation {fractions.std():.3f} -> "
        f"{fractions[chosen].std():.3f}"
    )
    return chosen


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.selection", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", metavar="RUN_OR_CHECKPOINT", help="what makes the pseudo-labels")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="of run folders")
    parser.add_argument("--data", default="stores", help="folder of tile stores (default: stores)")
    parser.add_argument("--domain", required=True, help="target whose training tiles are chosen")
    parser.add_argument("--fold", type=int, help="leave out this fold too, where the target itself has folds")
    parser.add_argument("--mean", type=float, required=True, help="wanted mean phase fraction of the tiles, 0 .. 1")
    parser.add_argument("--phase", metavar="NAME", help="whose fraction it is (default, of two: the foreground)")
    parser.add_argument("--tiles", type=int, help="how many tiles (default: as many as possible)")
    parser.add_argument("--test-mean", type=float, help="choose test micrographs of this mean, by their labels")
    parser.add_argument("--test-images", type=int, help="how many of them (default: as many as possible)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="the selection file to write")
    options = parser.parse_args()
    if any(mean is not None and not 0 <= mean <= 1 for mean in (options.mean, options.test_mean)):
        parser.error("--mean and --test-mean are fractions, 0 .. 1")
    if any(count is not None and count < 1 for count in (options.tiles, options.test_images)) or options.seed < 0:
        parser.error("--tiles and --test-images count from 1, --seed from 0")
    if options.test_images and options.test_mean is None:
        parser.error("--test-images goes with --test-mean")
    if Path(options.out).suffix != ".json":
        parser.error("--out names a .json file; .csv and .png go beside it")
    return options


@exits_cleanly
def main() -> None:
    select(parse())


if __name__ == "__main__":
    main()
