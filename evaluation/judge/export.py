"""A remedy as a checkpoint: every command that takes a trained model takes it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data.store import Store
from evaluation.judge.judge import Judge, with_statistics_of
from evaluation.judge.remedies import Remedy
from evaluation.members import Member
from training import checkpoint
from training.preparation import native_of


def export(judge: Judge, members: Sequence[Member], target: Store, remedy: Remedy, folder: Path) -> list[Path]:
    """Write a checkpoint of each member, a model of the source, under a remedy, named after its run. Returns the paths.

    Runs of one name, in several folders, get a number too. evaluate.py shows the network what the remedy makes of a
    micrograph. Statistics of the target, where the remedy has them, are those of its training micrographs, of each
    model's fold. `--images` takes pixel size, polarity and information bar from the target's store.
    """
    written = []
    for member in members:
        own = member.model
        if remedy.adabn:
            seen = judge.windows(judge.images_of(target, member), remedy)
            own = with_statistics_of(own, seen, judge.cut, judge.device, remedy.adabn)
        state = {
            "config": member.config,
            "preparation": member.preparation | {"native": native_of(target)},
            "step": member.step,
            "model": {name: value.cpu() for name, value in own.state_dict().items()},
            "remedy": {"changes": asdict(remedy), "levels": judge.levels.tolist()},
        }
        path = folder / f"{member.run.name}.pt"
        written.append(path if path not in written else path.with_stem(f"{path.stem}.{len(written)}"))
        checkpoint.save(written[-1], state)
    return written
