"""Adapt a segmentation model to micrographs of another kind without a label of theirs: AdaptSegNet, multi-level.

    python train_uda.py --target t3                                # one process
    torchrun --nproc_per_node=4 train_uda.py --target t3           # one node, four GPUs: the study's experiment T3.2
    sbatch --array=0-4 launch/slurm/train.sbatch train_uda.py --target t3       # five folds on a cluster

The segmentation model learns the annotated source and, at the same time, to make its predictions on the target look
like those on the source to two discriminators, one for each head (Tsai et al., CVPR 2018; paper Section 2.4.3).
The same command again resumes an interrupted run.
"""

from types import SimpleNamespace

import torch

from common.errors import exits_cleanly
from data.selection_file import read_selection
from data.store import Store, store_path
from data.tiles import LabelledTiles, UnlabelledTiles, batches
from evaluation.validation import save_panel, validate
from losses import GanLoss, segmentation_loss
from models import Discriminators, SourceAndTarget, parameter_groups, probability_map
from training import distributed
from training.accumulation import Tally, in_parts
from training.health import Health
from training.network import build_model, build_optimizer
from training.options import parse
from training.patches import BalancedPatches
from training.precision import Precision
from training.preparation import preparation
from training.run import Run
from training.schedule import factor, set_learning_rate


def train(options: SimpleNamespace, processes: distributed.Processes) -> None:
    source = Store(store_path(options.data, options.source))
    target = Store(store_path(options.data, options.target), labels=False, transductive=options.transductive)
    if options.selection:
        target.select(read_selection(options.selection, target, options.fold).tiles)
    source_tiles = LabelledTiles(source, options.fold, options.augmentation, options.seed)
    target_tiles = UnlabelledTiles(target, options.fold, options.augmentation, options.seed)

    model = build_model(options, processes)
    discriminators = Discriminators(options.discriminator_width)
    discriminators.to(processes.device, memory_format=torch.channels_last)  # as the model's
    first_place = processes.rank * options.batch_size // processes.world
    patches = BalancedPatches(options.discriminator_patch, target.tile + 2 * target.overlap, options.seed, first_place)
    optimizer = build_optimizer(
        options.optimizer,
        parameter_groups(model, options.learning_rate, options.backbone_factor),
        options.weight_decay,
    )
    optimizer_D = build_optimizer(
        "adam",
        [{"params": discriminators.parameters(), "lr": options.discriminator_learning_rate}],
        0.0,
        betas=(0.9, 0.99),
    )
    precision = Precision(options.amp, processes.device)
    parts = {
        "model": model,
        "discriminators": discriminators,
        "optimizers": [optimizer, optimizer_D],
        "scaler": precision.scaler,
    }
    run = Run(options, preparation(options, [source, target]), parts, processes, [source_tiles, target_tiles])
    if run.finished:
        print(f"{run.folder}: finished after {run.step} steps, nothing to do.")
        return

    both = distributed.parallel(SourceAndTarget(model, options.compile), processes)
    judges = distributed.parallel(discriminators, processes)
    gan, health = GanLoss(options.gan), Health(options.gan)
    weights = {"main": 1.0, "aux": options.lambda_aux}
    lambda_adv = {"main": options.lambda_adv_main, "aux": options.lambda_adv_aux}
    span = (options.batch_size, run.step, options.iterations, options.workers, processes)

    for labelled, unlabelled in zip(batches(source_tiles, *span), batches(target_tiles, *span), strict=True):
        set_learning_rate(
            [optimizer, optimizer_D], factor(options.schedule, run.step, options.iterations, options.power)
        )
        tally = Tally()
        for part, share in in_parts([*labelled, unlabelled], options.micro_batch, [both, judges]):
            images, masks, target_images = part
            with precision.autocast():
                # The segmentation model: right on the source, its target taken for the source by the discriminators.
                source_logits, target_logits = both(images, target_images)
                source_maps, whole_maps = probability_maps(source_logits), probability_maps(target_logits)
                source_maps, target_maps = patches(source_maps, whole_maps, run.step)
                loss_seg = {level: segmentation_loss(getattr(source_logits, level), masks) for level in weights}
                of_source, of_target = judges({k: source_maps[k].detach() for k in weights}, target_maps)
                loss_adv = {k: gan(of_target[k], "source") for k in weights}
                loss = sum(weights[k] * loss_seg[k] + lambda_adv[k] * loss_adv[k] for k in weights)
                # The discriminators: source told from target, by the same predictions.
                loss_D = {k: (gan(of_source[k], "source") + gan(of_target[k], "target")) / 2 for k in weights}
            # Either learns from its own loss alone. The discriminators' verdict on the target is in both.
            precision.backward(share * sum(loss_D.values()), discriminators, again=True)
            precision.backward(share * loss, model)

            tally.add(named(loss_seg=loss_seg, loss_adv=loss_adv, loss_D=loss_D), share)
            tally.add({"target_phase_fraction": whole_maps["main"][:, 1].mean()}, share)

        norms = {"gradient_norm": optimizer, "gradient_norm_D": optimizer_D}
        tally.add({name: precision.gradient_norm(one) for name, one in norms.items()}, 1)
        values = run.check(tally)
        precision.step(optimizer, optimizer_D)

        run.step += 1
        if run.due(options.log_every):
            run.log({**values, "learning_rate": optimizer.param_groups[-1]["lr"]})
            for warning in health.observe(values):
                run.tracker.say(f"warning: {warning}")
        if run.due(options.validate_every):
            run.judge(validate(model, source, options.fold, processes))
        if run.due(options.panels_every):
            save_panel(run.picture, model, source, target, options.fold, processes)
        if run.must_save:
            run.save()
    run.close()


def probability_maps(logits) -> dict[str, torch.Tensor]:
    """What the discriminators see of each head: level -> (N, 2, H, W) probabilities [1 - p, p]."""
    return {"main": probability_map(logits.main), "aux": probability_map(logits.aux)}


def named(**losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Flat names: loss_seg={"main": x} -> {"loss_seg_main": x}."""
    return {f"{name}_{level}": value for name, levels in losses.items() for level, value in levels.items()}


@exits_cleanly
def main() -> None:
    distributed.together(train, SimpleNamespace(**parse("train_uda", "T3.2", __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
