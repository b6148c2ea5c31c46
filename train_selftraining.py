"""Adapt a segmentation model to micrographs of another kind by labels of its own: DACS, and MIC.

    python train_selftraining.py --target t3                                                # DACS-t3
    python train_selftraining.py --target t3 --pretraining runs/T3.2/fold0                  # after AdaptSegNet
    torchrun --nproc_per_node=4 train_selftraining.py --experiment MIC-t3                   # and masked tiles

A teacher, the running mean of the model, labels the target's tiles. The model learns these labels on strong views of
the same tiles, into which regions of the source are pasted, beside the annotated source (Tranheden et al., WACV 2021);
and on tiles of which blocks are hidden (Hoyer et al., CVPR 2023).
The same command again resumes an interrupted run. evaluate.py --network teacher scores the teacher.
"""

from types import SimpleNamespace

from common.errors import exits_cleanly
from evaluation.judge.watch import TargetWatch
from evaluation.validation import save_panel, validate
from losses import Labelled, by_level, class_mix, named, weighted
from models import SourceAndTarget
from training import distributed
from training.accumulation import Tally, micro_batches
from training.configuration import parse
from training.network import build_model
from training.precision import Precision
from training.preparation import labelled_tiles, pixel_weights, two_views
from training.run import Run
from training.schedule import set_learning_rates
from training.teacher import Drift, build_teacher, follow, pseudo_labels
from training.weights import history_of


def train(options: SimpleNamespace, processes: distributed.Processes, run_class: type[Run] = Run) -> None:
    target = two_views(options)
    source = labelled_tiles(options, target)
    model, optimizer = build_model(options, processes, source.store.classes)
    teacher = build_teacher(model, options, processes)
    # A teacher of weights that have learnt nothing yet forgets its beginning, as published.
    trained = bool(history_of(options.pretraining)["trained_on"])
    drift = Drift(source.store.classes, from_model=trained).to(processes.device)
    precision = Precision(options.amp, processes.device)
    networks = {"model": model, "teacher": teacher, "drift": drift}
    run = run_class(options, processes, [source, target], networks, [optimizer], precision)
    if run.finished:
        return

    model_ddp = run.parallel(SourceAndTarget(model, options.compile))
    watch = TargetWatch(source.store, target.store, options.fold, processes)
    weigh = pixel_weights(options, source, processes)
    lambda_level = {"main": 1.0, "aux": options.lambda_aux}
    lambda_view = {"mixed": options.lambda_mixed, "masked": options.lambda_masked}

    for batch in run.batches():
        set_learning_rates([optimizer], options, run.step)
        tally = Tally()
        for (images, masks, weak, strong, masked, order), weight in micro_batches(
            batch, options.micro_batch, [model_ddp]
        ):
            with precision.autocast():
                # The teacher labels the weak view of a tile. The model learns these labels on the strong ones.
                labels, sure = pseudo_labels(teacher, weak, masks.shape[-2:], options)
                views = {"mixed": class_mix(images, masks, Labelled(strong, labels, sure), order)}
                views |= {"masked": Labelled(masked, labels, sure)} if options.lambda_masked else {}
                source_logits, *target_logits = model_ddp(images, *(view.images for view in views.values()))
                losses = {"loss_seg": by_level(source_logits, model.levels, masks, weigh(masks))}
                loss = weighted(lambda_level, losses["loss_seg"])
                for (name, view), logits in zip(views.items(), target_logits, strict=True):
                    losses[f"loss_{name}"] = by_level(logits, model.levels, view.labels, view.weights)
                    loss += lambda_view[name] * weighted(lambda_level, losses[f"loss_{name}"])
            precision.backward(weight * loss, optimizer)

            tally.add(named(**losses) | {"sure": sure.mean()} | drift.observe(labels, run.step, weight), weight)

        tally.add({"gradient_norm": precision.gradient_norm(optimizer)})
        run.check(tally)
        precision.step(optimizer)

        run.step += 1
        decay = options.teacher_decay if trained else min(options.teacher_decay, 1 - 1 / run.step)
        follow(teacher, model, decay)
        if run.due(options.log_every):
            run.log({**run.values, "learning_rate": optimizer.param_groups[-1]["lr"]})
            run.warn(drift.warnings(run.values))
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
    distributed.together(train, SimpleNamespace(**parse("train_selftraining", __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
