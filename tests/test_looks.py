"""What a device has computed is looked at every step on a CPU and every 20 on a GPU: it changes nothing but the time.

Here the CPU looks every 4 steps too.
"""

from types import SimpleNamespace

import pytest
from short_runs import assert_same_weights, metrics, supervised_arguments, uda_here, weights

import losses.segmentation
import train_uda
from losses import segmentation_loss
from training import distributed
from training.accumulation import Tally
from training.configuration import parse
from training.network import build_model
from training.precision import Precision
from training.preparation import labelled_tiles
from training.run import LOOK_EVERY, NonFiniteLoss, Run

STEPS = 12
# Nothing but LOOK_EVERY and the last step asks for a look.
RARELY = (
    "--steps", 10, "--batch-size", 2, "--log-every", 100, "--validate-every", 100, "--checkpoint-every", 100,
)  # fmt: skip


@pytest.mark.parametrize("every", [1, 4])
def test_looking_at_the_values_rarely_changes_nothing(stores, tmp_path, monkeypatch, every):
    """As on a GPU, where a look waits for the device."""
    uda_here(stores, tmp_path / "whole", *RARELY)
    monkeypatch.setitem(LOOK_EVERY, "cpu", every)
    uda_here(stores, tmp_path / "run", *RARELY, "--log-every", 5)
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss_seg_main" in line] == [5, 10]


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_value_that_is_not_finite_is_found_at_the_next_look_and_is_not_in_the_weights(
    stores, tmp_path, monkeypatch, amp
):
    monkeypatch.setitem(LOOK_EVERY, "cpu", 4)
    own_loss, own_build, calls, models = segmentation_loss, train_uda.build_model, [], []

    def loss(*given):
        calls.append(given)
        return own_loss(*given) * (float("nan") if len(calls) in (11, 12) else 1)  # both heads in step 6

    def build(*arguments):
        models.append(own_build(*arguments))
        return models[0]

    monkeypatch.setattr(losses.segmentation, "segmentation_loss", loss)
    monkeypatch.setattr(train_uda, "build_model", build)
    with pytest.raises(NonFiniteLoss, match=r"loss_seg_main, .*gradient_norm is not finite in step 6,"):
        uda_here(stores, tmp_path / "run", *RARELY, "--amp", amp)
    assert len(calls) == 2 * 8, "found by the look at step 8"
    assert all(parameter.isfinite().all() for parameter in models[0][0].parameters())
    assert not (tmp_path / "run" / "last.pt").exists()


# ---- terms that are not there in every step ------------------------------------------------------------------------


def names(step: int) -> set[str]:
    """Terms that the tally of an update has, the updates counted from 1."""
    there = {"loss_warm_up": step < 3, "loss_late": step >= 5, "loss_third": step % 3 == 0, "loss_sixth": step == 6}
    return {"loss", "gradient_norm", "share"} | {name for name, is_there in there.items() if is_there}


def train(stores, folder, *more, factors=None, after=lambda run, tally: None):
    """A training loop whose loss has terms that come and go. Every term is the loss, times its entry in `factors`.

    after(run, tally) is called when an update is made.
    """
    arguments = supervised_arguments(
        stores, folder, "--steps", STEPS, "--batch-size", 2, "--validate-every", 100, "--checkpoint-every", 100, *more
    )

    def loop(options, processes):
        source = labelled_tiles(options)
        model, optimizer = build_model(options, processes)
        precision = Precision(options.amp, processes.device)
        run = Run(options, processes, [source], {"model": model}, [optimizer], precision)
        for images, masks in run.batches():
            loss = segmentation_loss(model(images)["main"], masks)
            precision.backward(loss, optimizer)
            tally = Tally()
            terms = sorted(names(run.step + 1) - {"gradient_norm", "share"})
            tally.add({name: loss * (factors or {}).get(name, 1) for name in terms})
            tally.add({"share": 0.75})  # a plain number, as a schedule gives it
            tally.add({"gradient_norm": precision.gradient_norm(optimizer)})
            run.check(tally)
            precision.step(optimizer)
            run.step += 1
            after(run, tally)
            if run.due(options.log_every):
                run.log(run.values)
            if run.must_save:
                run.save()
        run.close()

    distributed.together(loop, SimpleNamespace(**parse("train_supervised", "", arguments)))


@pytest.mark.parametrize("log_every", [1, 2, 3, 5, 7])
def test_a_term_may_come_and_go_between_two_looks(stores, tmp_path, monkeypatch, log_every):
    for every in (1, 4):
        monkeypatch.setitem(LOOK_EVERY, "cpu", every)
        train(stores, tmp_path / f"{every}", "--log-every", log_every)
    lines = metrics(tmp_path / "4")
    assert lines == metrics(tmp_path / "1")
    assert [line["step"] for line in lines] == [step for step in range(1, STEPS) if step % log_every == 0] + [STEPS]
    for line in lines:
        assert line.keys() - {"step"} == names(line["step"])
    assert_same_weights(weights(tmp_path / "1"), weights(tmp_path / "4"))


@pytest.mark.parametrize("every", [1, 4])
def test_the_values_are_those_of_the_last_update_whenever_they_are_asked_for(stores, tmp_path, monkeypatch, every):
    monkeypatch.setitem(LOOK_EVERY, "cpu", every)
    for asked in (range(1, STEPS + 1), (2, 7, 8), (6, 11)):
        seen = {}

        def ask(run, tally, asked=asked, seen=seen):
            if run.step in asked:
                assert run.values == run.values == {name: float(value) for name, value in tally.items()}
                seen[run.step] = set(run.values)

        train(stores, tmp_path / f"{len(asked)}", "--log-every", 100, after=ask)
        assert seen == {step: names(step) for step in asked}


@pytest.mark.parametrize("every", [1, 3, 4])  # 3: as many terms in all steps of the first look, but others
@pytest.mark.parametrize("name", ["loss_warm_up", "loss_third", "loss_late", "loss_sixth"])
def test_a_term_of_one_step_that_is_not_finite_is_named_with_that_step(stores, tmp_path, monkeypatch, every, name):
    monkeypatch.setitem(LOOK_EVERY, "cpu", every)
    first = next(step for step in range(1, STEPS) if name in names(step))
    made = [0]
    with pytest.raises(NonFiniteLoss, match=rf": {name} is not finite in step {first}, on source: m\d"):
        train(
            stores, tmp_path / "run", "--log-every", 100, factors={name: float("nan")},
            after=lambda run, tally: made.append(run.step),
        )  # fmt: skip
    assert made[-1] + 1 == -(-first // every) * every, "found at the next look"
    assert not (tmp_path / "run" / "last.pt").exists()
