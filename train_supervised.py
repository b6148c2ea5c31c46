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
from data.store import Store, store_path
from data.tiles import LabelledTiles, batches
from evaluation.validation import save_panel, validate
from losses import segmentation_loss
from models import parameter_groups
from training import distributed
from training.accumulation import Tally, in_parts
from training.network import build_model, build_optimizer
from training.options import parse
from training.precision import Precision
from training.preparation import preparation
from training.run import Run
from training.schedule import factor, set_learning_rate


def train(options: SimpleNamespace, processes: distributed.Processes) -> None:
    source = Store(store_path(options.data, options.source))
    tiles = LabelledTiles(source, options.fold, options.augmentation, options.seed)

    model = build_model(options, processes)
    optimizer = build_optimizer(
        options.optimizer,
        parameter_groups(model, options.learning_rate, options.backbone_factor),
        options.weight_decay,
    )
    precision = Precision(options.amp, processes.device)
    parts = {"model": model, "optimizers": [optimizer], "scaler": precision.scaler}
    run = Run(options, preparation(options, [source]), parts, processes, [tiles])
    if run.finished:
        print(f"{run.folder}: finished after {run.step} steps, nothing to do.")
        return

    network = distributed.parallel(torch.compile(model, dynamic=False) if options.compile else model, processes)
    for batch in batches(tiles, options.batch_size, run.step, options.iterations, options.workers, processes):
        set_learning_rate([optimizer], factor(options.schedule, run.step, options.iterations, options.power))
        tally = Tally()
        for (images, masks), share in in_parts(batch, options.micro_batch, [network]):
            with precision.autocast():
                logits = network(images)
                losses = {"loss_seg_main": segmentation_loss(logits.main, masks)}
                loss = losses["loss_seg_main"]
                if logits.aux is not None:
                    losses["loss_seg_aux"] = segmentation_loss(logits.aux, masks)
                    loss = loss + options.lambda_aux * losses["loss_seg_aux"]
            precision.backward(share * loss, model)
            tally.add(losses, share)
        tally.add({"gradient_norm": precision.gradient_norm(optimizer)}, 1)
        values = run.check(tally)
        precision.step(optimizer)

        run.step += 1
        if run.due(options.log_every):
            run.log({**values, "learning_rate": optimizer.param_groups[-1]["lr"]})
        if run.due(options.validate_every):
            run.judge(validate(model, source, options.fold, processes))
        if run.due(options.panels_every):
            save_panel(run.picture, model, source, None, options.fold, processes)
        if run.must_save:
            run.save()
    run.close()


@exits_cleanly
def main() -> None:
    distributed.together(train, SimpleNamespace(**parse("train_supervised", "S.10", __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
