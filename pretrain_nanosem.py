"""Pre-train a U-Net's encoder on the classification of SEM pictures, from ImageNet's weights on.

    python -m data.nanosem nanosem                             # once: clean the pictures into nanosem.h5
    torchrun --nproc_per_node=4 pretrain_nanosem.py            # one node, four GPUs; writes runs/NanoSEM/encoder.pt
    launch/pretrain.sh --sweep                                 # the learning rate

A fifth of each class is held out for testing. As in the study, the model that tests best is the one whose encoder is
exported: `--pretraining nanosem` of the segmentation scripts loads it. Paper Sections 2.3 and 2.4.2. The same command
again resumes an interrupted run.
"""

import copy
from types import SimpleNamespace

import numpy as np
import torch

from common.errors import exits_cleanly
from data.nanosem.image_store import ClassifiedImages, ImageStore, image_store_path
from evaluation.accuracy import accuracy, classify, write_report
from losses import classification_loss
from training import checkpoint, distributed
from training.accumulation import Tally, micro_batches
from training.configuration import parse
from training.network import build_classifier
from training.precision import Precision
from training.run import Run
from training.schedule import set_learning_rates


def train(options: SimpleNamespace, processes: distributed.Processes, run_class: type[Run] = Run) -> None:
    store = ImageStore(image_store_path(options.data))
    training, test = store.split(options.seed)

    model, optimizer = build_classifier(options, len(store.classes), processes)
    images = ClassifiedImages(store, training, model.features, options.dropout, options.seed)
    precision = Precision(options.amp, processes.device)
    facts = {"classes": store.classes, "size": store.size, "fingerprints": {store.domain: store.fingerprint}}
    networks, measure = {"model": model}, "accuracy_test"
    run = run_class(options, processes, [images], networks, [optimizer], precision, facts, measure)
    if run.finished:
        return

    model_ddp = run.parallel(torch.compile(model, dynamic=False) if options.compile else model)
    for batch in run.batches():
        set_learning_rates([optimizer], options, run.step)
        tally = Tally()
        for (pictures, labels, kept), weight in micro_batches(batch, options.micro_batch, [model_ddp]):
            with precision.autocast():
                loss = classification_loss(model_ddp(pictures, kept), labels)
            precision.backward(weight * loss, optimizer)
            tally.add({"loss_classification": loss}, weight)
        tally.add({"gradient_norm": precision.gradient_norm(optimizer)})
        run.check(tally)
        precision.step(optimizer)

        run.step += 1
        if run.due(options.log_every):
            run.log({**run.values, "learning_rate": optimizer.param_groups[0]["lr"]})
        if run.due(options.validate_every):
            run.record_validation(accuracy(classify(model, store, test, processes)))
        if run.step == options.iterations:  # before the last checkpoint, so that a finished run has its encoder
            conclude(run, model, store, test, processes)
        if run.must_save:
            run.save()
    run.close()


def conclude(
    run: Run, model: torch.nn.Module, store: ImageStore, test: np.ndarray, processes: distributed.Processes
) -> None:
    """Report on the last and the best model class by class, and export the best one's encoder as encoder.pt."""
    best = copy.deepcopy(model)
    best.load_state_dict(checkpoint.load(run.folder, "best")["model"])
    outcomes = {"last": classify(model, store, test, processes), "best": classify(best, store, test, processes)}

    def write() -> None:
        for name, matrix in outcomes.items():
            write_report(run.folder, name, matrix, store.classes)
        checkpoint.save_weights(run.folder / "encoder.pt", best.backbone)

    distributed.on_main_process(write, processes)


@exits_cleanly
def main() -> None:
    distributed.together(train, SimpleNamespace(**parse("pretrain_nanosem", __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
