"""How often the 95 % interval of a phase fraction holds the truth, on drawn specimens whose fraction is known.

    python -m benchmarks.intervals runs/demo/seed*/supervised/fold0 --domain source t2

A specimen is drawn, larger than its fields, and photographed at random places. Its fraction is estimated from these
fields as evaluate.py --images does: by their labels, and by the models, without and with the models' spread.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.intervals")

import argparse

import cv2
import numpy as np
from tqdm import tqdm

from common.arguments import positive
from common.errors import exits_cleanly
from data.synthetic.micrographs import electron_image
from data.synthetic.microstructure import microstructure
from data.synthetic.recipes import DOMAINS, SEM_PIXEL
from evaluation.fractions import of_specimen
from evaluation.inference import for_inference, segment
from evaluation.members import Member, load_member

SPECIMEN, FIELD = (1024, 1432), (256, 358)  # px, as imaged
FRACTIONS = (0.2, 0.7)


def coverage(members: list[Member], domain: str, specimens: int, fields: int, seed: int) -> dict[str, list[float]]:
    """Share of specimens whose true fraction the interval holds, and its mean half width; for each way to estimate."""
    networks, holds, widths = [for_inference(member.model) for member in members], {}, {}
    cut = (members[0].preparation["tile"], members[0].preparation["overlap"])
    scale = members[0].preparation["scale"]
    for number in tqdm(range(specimens), desc=domain, unit="specimen"):
        rng = np.random.default_rng([seed, number])
        structure = microstructure(rng, SPECIMEN, SEM_PIXEL, rng.uniform(*FRACTIONS))
        image, truth = electron_image(rng, structure, DOMAINS[domain]), structure.bainite.mean()
        of_labels, of_models, by_model = [], [], []
        for _ in range(fields):
            row, column = (rng.integers(0, whole - side + 1) for whole, side in zip(SPECIMEN, FIELD, strict=True))
            place = (slice(row, row + FIELD[0]), slice(column, column + FIELD[1]))
            of_labels.append([structure.bainite[place].mean()])
            shown = cv2.resize(image[place], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            found = segment(networks, [shown] * len(networks), *cut, FIELD)
            of_models.append([(found.classes > 0).mean()])
            by_model.append(found.fractions[:, 1])
        labels, _ = of_specimen(of_labels, np.zeros((fields, 1)))
        models, _ = of_specimen(of_models, by_model)
        estimates = [("labels", labels.mean, labels.ci95), ("models", models.mean, models.ci95)]
        if len(members) > 1:
            estimates.append(("models, with their spread", models.mean, models.ci95_with_models))
        for name, mean, half in estimates:
            holds.setdefault(name, []).append(abs(mean - truth) <= half)
            widths.setdefault(name, []).append(half)
    return {name: [float(np.mean(holds[name])), float(np.mean(widths[name]))] for name in holds}


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intervals", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="supervised runs of make demo")
    parser.add_argument("--domain", nargs="+", default=["source"], choices=("source", "t1", "t2"), help="etching")
    parser.add_argument("--specimens", type=positive, default=200)
    parser.add_argument("--fields", type=positive, default=8, help="micrographs of each specimen")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    members = [load_member(run, "last", "cpu") for run in options.runs]
    print(f"{options.specimens} specimens of {options.fields} fields, {len(members)} models")
    for domain in options.domain:
        for name, (share, width) in coverage(members, domain, options.specimens, options.fields, options.seed).items():
            print(f"{domain}, {name}: holds in {100 * share:.1f} %, ± {100 * width:.1f} points")


if __name__ == "__main__":
    main()
