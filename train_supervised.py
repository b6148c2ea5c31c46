"""Train a segmentation model on the annotated source domain.

    python train_supervised.py --experiment S.6                             # one process
    torchrun --nproc_per_node=4 train_supervised.py --experiment S.10       # one node, four GPUs
    sbatch --array=0-4 launch/slurm/train.sbatch train_supervised.py --experiment S.10   # five folds on a cluster

Fold k of the source is held out; the model after the last step is what evaluate.py reports, best.pt is the best on the
held-out fold. Paper Sections 2.4.2 and 3.1. The same command again resumes an interrupted run.
"""

from types import SimpleNamespace

import torch

from common.errors import exits_cleanly
from evaluation.validation import save_panel, validate
from losses import by_level, named, weighted
from training import distributed
from training.accumulation import Tally, micro_batches
from training.configuration import parse
from training.network import build_model
from training.precision import Precision
from training.preparation import labelled_tiles, pixel_weights
from training.run import Run
from training.schedule import set_learning_rates


def train(options: SimpleNamespace, processes: distributed.Processes, run_class: type[Run] = Run) -> None:
    source = labelled_tiles(options)
    model, optimizer = build_model(options, processes, source.store.classes)
    precision = Precision(options.amp, processes.device)
    run = run_class(options, processes, [source], {"model": model}, [optimizer], precision)
    if run.finished:
        return

    model_ddp = run.parallel(torch.compile(model, dynamic=False) if options.compile else model)
    weigh = pixel_weights(options, source, processes)
    lambda_seg = {"main": 1.0, "aux": options.lambda_aux}
    for batch in run.batches():
        set_learning_rates([optimizer], options, run.step)
        tally = Tally()
        for (images, masks), weight in micro_batches(batch, options.micro_batch, [model_ddp]):
            with precision.autocast():
                logits = model_ddp(images)
                loss_seg = by_level(logits, model.levels, masks, weigh(masks))
                loss = weighted(lambda_seg, loss_seg)
            precision.backward(weight * loss, optimizer)
            tally.add(named(loss_seg=loss_seg), weight)
        tally.add({"gradient_norm": precision.gradient_norm(optimizer)})
        run.check(tally)
        precision.step(optimizer)

        run.step += 1
        if run.due(options.log_every):
            run.log({**run.values, "learning_rate": optimizer.param_groups[-1]["lr"]})
        if run.due(options.validate_every):
            run.record_validation(validate(model, source.store, options.fold, processes))
        if run.due(options.panels_every):
            save_panel(run.picture, model, source.store, None, options.fold, processes)
        if run.must_save:
            run.save()
    run.close()


@exits_cleanly
def main() -> None:
    distributed.together(train, SimpleNamespace(**parse("train_supervised", __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
