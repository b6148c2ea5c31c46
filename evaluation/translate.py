"""The source, drawn as the target's kind by a run of train_translation.py: a tile store with the source's own masks.

    python -m evaluation.translate runs/translation-t3/fold0 --data stores
    python train_supervised.py --source source-as-t3 --data runs/translation-t3/fold0/stores --run-dir runs/translated

The store goes to <run>/stores/, and translated.jpg beside it: look at it first. A mask fits a translated micrograph
only where its phases have stayed in their places. The mIoU of the frozen source model says how far it still sees them.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.translate")

import argparse
import io
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from tqdm import tqdm

from common.arguments import positive
from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_image
from data.store import Store, StoreWriter, store_path
from evaluation.before_after import JPEG_QUALITY
from evaluation.figures import grid, legend_of, overlay
from evaluation.inference import predict
from evaluation.scoring import Predictor, score
from evaluation.validation import miou_of_all
from models import Segmenter, classes
from models.translator import Generator, Translators
from training import checkpoint
from training.device import choose_algorithms, choose_device
from training.distributed import Processes
from training.network import frozen_reference
from training.weights import history


def translate(generator: Generator, image: np.ndarray, store: Store, device: torch.device | str) -> np.ndarray:
    """Translate a micrograph, uint8 (h, w) to uint8 (h, w), in the windows of a store's tiles, in bounded memory."""
    found = predict(lambda tiles: {"main": generator.logits(tiles)}, image, store.tile, store.overlap, device)
    return np.rint(255 * found[1]).astype(np.uint8)


def segmented_as_translated(
    generator: Generator, reference: Segmenter, store: Store, device: torch.device | str
) -> Predictor:
    """Function from a micrograph uint8 (h, w) to the frozen model's probabilities of the translated one."""
    cut = {"tile": store.tile, "overlap": store.overlap, "device": device}
    return lambda image: predict(reference, translate(generator, image, store, device), **cut)


def miou_of_translated(
    translators: Translators, reference: Segmenter, source: Store, fold: int, processes: Processes
) -> float:
    """mIoU of the frozen model on translated micrographs that the fold holds out; the same on all processes."""
    micrographs = source.validation_micrographs(fold)[processes.rank :: processes.world]
    predictor = segmented_as_translated(translators.to_target, reference, source, processes.device)
    confusion, _ = score(predictor, source, micrographs)
    return miou_of_all(confusion, processes)


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.translate", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run of train_translation.py")
    parser.add_argument("--data", type=Path, default=Path("stores"), help="folder of tile stores (default: stores)")
    parser.add_argument("--pictures", type=positive, default=3, help="micrographs in translated.jpg (default: 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    options = parser.parse_args()
    choose_algorithms(deterministic=False, amp="off")
    device = choose_device(options.device)
    state = checkpoint.load(options.run)
    if "generator_width" not in state["config"]:
        raise InputError(
            f"{options.run}: is a run of {state['config']['script']}.py; give one of train_translation.py."
        )
    config = SimpleNamespace(**state["config"])
    translators = Translators(config.generator_width, config.generator_blocks)
    translators.load_state_dict(state["model"])
    generator = translators.to_target.to(device).eval().requires_grad_(False)
    source = Store(store_path(options.data, config.source))
    target = Store(store_path(options.data, config.target), labels=False)
    if state["preparation"]["fingerprints"][source.domain] != source.fingerprint:
        raise InputError(f"{source.path}: has changed since {options.run} was trained on it. Train again.")
    reference = frozen_reference(config.reference, source, config.fold, device)
    made_by = {"run": str(options.run), "step": state["step"], **history(state["config"], state["preparation"])}
    path = write_translated(generator, source, config.target, made_by, options.run, device)
    held_out = source.validation_micrographs(config.fold)
    cut = {"tile": source.tile, "overlap": source.overlap, "device": device}
    before, _ = score(lambda image: predict(reference, image, **cut), source, held_out)
    after, _ = score(segmented_as_translated(generator, reference, source, device), source, held_out)
    picture = options.run / "translated.jpg"
    draw(picture, generator, reference, source, target, held_out[: options.pictures], device)
    print(
        f"{path}\n{picture}\nmIoU of {config.reference} on {len(held_out)} held-out micrographs: "
        f"{100 * before.miou:.1f} % as they are, {100 * after.miou:.1f} % translated"
    )


def write_translated(
    generator: Generator, source: Store, target: str, made_by: dict, run: Path, device: torch.device
) -> Path:
    """Write the annotated source's micrographs, translated, with their masks, folds and tests. Returns the path.

    made_by: run, step, and the history of the generator, which every model that learns from the store then has.
    """
    domain = f"{source.domain}-as-{target}"
    parameters = source.metadata["parameters"] | {"domain": domain, "translated": made_by}
    with StoreWriter(store_path(make_folder(run / "stores"), domain), source.tile, source.overlap) as writer:
        for one in tqdm(source.micrographs, desc=f"{source.domain} as {target}", unit="image"):
            image = translate(generator, source.image(one.index), source, device)
            mask = source.mask(one.index) if one.labelled else None
            writer.add(image, mask, name=one.name, parent=one.parent)
        writer.finish(parameters, source.metadata["sources"])
        Store(writer.partial, name=writer.path.name)
        writer.place()
    return writer.path


def draw(
    path: Path,
    generator: Generator,
    reference: Segmenter,
    source: Store,
    target: Store,
    micrographs: list[int],
    device: torch.device,
) -> None:
    """Draw held-out micrographs, translated, with what the frozen model gets wrong of their masks; and the target's."""
    others, rows = target.tile_micrograph[target.training_tiles(None, labelled=False)], []
    cut = {"tile": source.tile, "overlap": source.overlap, "device": device}
    for number, micrograph in enumerate(micrographs):
        image, mask = source.image(micrograph), source.mask(micrograph)
        translated = translate(generator, image, source, device)
        errors = overlay(translated, classes(predict(reference, translated, **cut)), mask, source.classes)
        real = target.image(int(np.unique(others)[number % len(np.unique(others))]))
        side = [min(one.shape[k] for one in (image, real)) for k in range(2)]
        shown = [one[: side[0], : side[1]] for one in (image, translated, errors, real)]
        names = (
            source.domain,
            f"as {target.domain}",
            "errors of the frozen model on it",
            f"{target.domain}, another place",
        )
        rows.append(list(zip(names, shown, strict=True)))
    drawn = io.BytesIO()
    grid(drawn, rows, legend_of(source.classes, errors=True))
    write_image(
        path, cv2.imdecode(np.frombuffer(drawn.getvalue(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1], JPEG_QUALITY
    )


if __name__ == "__main__":
    main()
