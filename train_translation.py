"""Learn to draw the source's micrographs as if they were of the target's kind, without a label of the target: CycleGAN.

    python train_translation.py --target t3                                             # translation-t3
    torchrun --nproc_per_node=4 train_translation.py --target t3 --lambda-semantic 1    # phases stay what S.10 sees
    launch/methods.sh translation                       # and the model that is trained on the translated source

Two generators translate in either direction. A discriminator of each domain tells translated tiles from real ones, and
what is translated forth and back has to be what it was (Zhu et al., ICCV 2017).
The frozen source model of --reference says how far the phases stay in their places: its mIoU on translated micrographs.
The same command again resumes an interrupted run.
"""

from types import SimpleNamespace

from common.errors import exits_cleanly
from evaluation.translate import miou_of_translated
from losses import grey_distance, least_squares, named, segmentation_loss
from training import distributed
from training.accumulation import Tally, micro_batches
from training.configuration import parse
from training.network import build_translators, frozen_reference
from training.precision import Precision
from training.preparation import labelled_tiles, unlabelled_tiles
from training.run import Run
from training.schedule import set_learning_rates


def train(options: SimpleNamespace, processes: distributed.Processes, run_class: type[Run] = Run) -> None:
    target = unlabelled_tiles(options)
    source = labelled_tiles(options, target)
    reference = frozen_reference(options.reference, source.store, options.fold, processes.device)
    translators, discriminators, optimizers = build_translators(options, processes)
    optimizer, optimizer_D = optimizers
    precision = Precision(options.amp, processes.device)
    networks, measure = {"model": translators, "discriminators": discriminators}, "miou_translated_validation"
    run = run_class(options, processes, [source, target], networks, optimizers, precision, measure=measure)
    if run.finished:
        return

    translators_ddp, discriminators_ddp = run.parallel(translators), run.parallel(discriminators)
    modules = [translators_ddp, discriminators_ddp]
    for batch in run.batches():
        set_learning_rates(optimizers, options, run.step)
        tally = Tally()
        for (images, masks, target_images), weight in micro_batches(batch, options.micro_batch, modules):
            with precision.autocast():
                real = {"source": images, "target": target_images}
                made = translators_ddp(**real, same=options.lambda_identity > 0)
                verdicts = discriminators_ddp(real, made["translated"])
                # The discriminators: real told from translated.
                loss_D = {k: (least_squares(is_real, 1.0) + least_squares(is_made, 0.0)) / 2
                          for k, (is_real, is_made) in verdicts.items()}  # fmt: skip
                # The generators: taken for real, back where they came from, and, if asked, nothing to do at home.
                loss_gan = {k: least_squares(is_made, 1.0) for k, (_, is_made) in verdicts.items()}
                loss_cycle = {k: grey_distance(made["back"][k], real[k]) for k in real}
                loss_same = {k: grey_distance(image, real[k]) for k, image in made["same"].items()}
                loss = sum(loss_gan.values()) + options.lambda_cycle * sum(loss_cycle.values())
                loss += options.lambda_identity * sum(loss_same.values())
                losses = named(loss_D=loss_D, loss_gan=loss_gan, loss_cycle=loss_cycle, loss_same=loss_same)
                if options.lambda_semantic:  # the frozen model sees the source's phases where they were
                    seen = reference(made["translated"]["target"])["main"]
                    losses["loss_semantic"] = segmentation_loss(seen, masks)
                    loss += options.lambda_semantic * losses["loss_semantic"]
            # Either learns from its own loss alone. The verdicts on what is translated are in both.
            precision.backward(weight * sum(loss_D.values()), optimizer_D, again=True)
            precision.backward(weight * loss, optimizer)
            tally.add(losses, weight)

        for name, one in zip(("gradient_norm", "gradient_norm_D"), optimizers, strict=True):
            tally.add({name: precision.gradient_norm(one)})
        run.check(tally)
        precision.step(*optimizers)

        run.step += 1
        if run.due(options.log_every):
            run.log({**run.values, "learning_rate": optimizers[0].param_groups[0]["lr"]})
        if run.due(options.validate_every):
            run.record_validation(miou_of_translated(translators, reference, source.store, options.fold, processes))
        if run.must_save:
            run.save()
    run.close()


@exits_cleanly
def main() -> None:
    distributed.together(train, SimpleNamespace(**parse("train_translation", __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
