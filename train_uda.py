"""Adapt a segmentation model to micrographs of another kind without a label of theirs: AdaptSegNet, multi-level.

    python train_uda.py --target t3                                # one process
    python train_uda.py --experiment ADVENT-t3                     # another of the family: docs/methods.md
    torchrun --nproc_per_node=4 train_uda.py --target t3           # one node, four GPUs: the study's experiment T3.2
    PROCESSES=1 JOBS=4 launch/uda.sh T3.2                          # its five folds, each on a GPU of its own
    sbatch --array=0-4 launch/slurm/train.sbatch train_uda.py --target t3       # five folds on a cluster

The segmentation model learns the annotated source and, at the same time, to make its predictions on the target look
like those on the source to two discriminators, one for each head (Tsai et al., CVPR 2018; paper Section 2.4.3). Or to
be sure of them (Vu et al., CVPR 2019).
The same command again resumes an interrupted run.
"""

from types import SimpleNamespace

from common.errors import exits_cleanly
from evaluation.judge.watch import TargetWatch
from evaluation.validation import save_panel, validate
from losses import GanLoss, by_level, entropy_loss, named, weighted
from models import SourceAndTarget
from training import distributed
from training.accumulation import Tally, micro_batches
from training.configuration import parse
from training.discriminator_view import DiscriminatorView
from training.health import Health, phase_fractions
from training.network import build_discriminators, build_model
from training.precision import Precision
from training.preparation import labelled_tiles, pixel_weights, unlabelled_tiles
from training.run import Run
from training.schedule import set_learning_rates


def train(options: SimpleNamespace, processes: distributed.Processes, run_class: type[Run] = Run) -> None:
    target = unlabelled_tiles(options)
    source = labelled_tiles(options, target)
    model, optimizer = build_model(options, processes, source.store.classes)
    discriminators, optimizers_D = build_discriminators(options, model, processes)
    judged = tuple(discriminators.networks)  # levels of output; none without an adversary, and then no such network
    networks = {"model": model} | ({"discriminators": discriminators} if judged else {})
    optimizers = [optimizer, *optimizers_D]
    precision = Precision(options.amp, processes.device)
    run = run_class(options, processes, [source, target], networks, optimizers, precision)
    if run.finished:
        return

    model_ddp = run.parallel(SourceAndTarget(model, options.compile))
    discriminators_ddp = run.parallel(discriminators)
    networks_ddp = [model_ddp, discriminators_ddp]
    view = DiscriminatorView(options, judged, target.store, processes)
    gan = {**dict.fromkeys(judged, GanLoss(options.gan)), "feature": GanLoss("least_squares")}
    health = Health(options, model.levels)
    watch = TargetWatch(source.store, target.store, options.fold, processes)
    weigh = pixel_weights(options, source, processes)
    lambda_seg = {"main": 1.0, "aux": options.lambda_aux}
    lambda_adv = {level: getattr(options, f"lambda_adv_{level}") for level in ("main", "aux", "feature")}
    lambda_entropy = {"main": options.lambda_entropy_main, "aux": options.lambda_entropy_aux}

    for batch in run.batches():
        set_learning_rates(optimizers, options, run.step)
        tally = Tally()
        for (images, masks, target_images), weight in micro_batches(batch, options.micro_batch, networks_ddp):
            with precision.autocast():
                # The segmentation model: right on the source, its target taken for the source by the discriminators,
                # and sure of the target.
                source_logits, target_logits = model_ddp(images, target_images)
                source_maps, target_maps = view(source_logits, target_logits, run.step)
                loss_seg = by_level(source_logits, model.levels, masks, weigh(masks))
                detached = {level: maps.detach() for level, maps in source_maps.items()}
                of_source, of_target = discriminators_ddp(detached, target_maps)
                if options.lambda_adv_feature:  # the model's own discriminator has judged its features
                    of_source["feature"], of_target["feature"] = source_logits["feature"], target_logits["feature"]
                loss_adv = {k: gan[k](of_target[k], "source") for k in of_target}
                unsure = {k: target_logits[k] for k in model.levels if lambda_entropy[k]}
                loss_entropy = {k: entropy_loss(logits, options.entropy_power) for k, logits in unsure.items()}
                loss = weighted(lambda_seg, loss_seg) + weighted(lambda_adv, loss_adv)
                loss += weighted(lambda_entropy, loss_entropy)
                # The discriminators: source told from target, by the same predictions.
                loss_D = {k: (gan[k](of_source[k], "source") + gan[k](of_target[k], "target")) / 2 for k in of_target}
            # Either learns from its own loss alone. The discriminators' verdict on the target is in both.
            for optimizer_D in optimizers_D:
                precision.backward(weight * sum(loss_D.values()), optimizer_D, again=True)
            precision.backward(weight * loss, optimizer)

            tally.add(named(loss_seg=loss_seg, loss_adv=loss_adv, loss_D=loss_D, loss_entropy=loss_entropy), weight)
            tally.add(phase_fractions(target_logits["main"], source.store.classes), weight)

        for name, one in zip(("gradient_norm", "gradient_norm_D"), optimizers, strict=False):
            tally.add({name: precision.gradient_norm(one)})
        run.check(tally)
        precision.step(*optimizers)

        run.step += 1
        if run.due(options.log_every):
            run.log({**run.values, "learning_rate": optimizer.param_groups[-1]["lr"]})
            run.warn(health.observe(run.values))
        if run.due(options.validate_every):
            run.record_validation(validate(model, source.store, options.fold, processes))
        if run.due(options.judge_every):
            run.log(watch.look(model))
            run.warn(watch.worse())
        if run.due(options.panels_every):
            save_panel(run.picture, model, source.store, target.store, options.fold, processes)
        if run.must_save:
            run.save()
    run.close()


@exits_cleanly
def main() -> None:
    distributed.together(train, SimpleNamespace(**parse("train_uda", __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
