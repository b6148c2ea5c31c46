"""Choose among trained models for an unlabelled target: source model, remedies, adaptation runs, their checkpoints.

    python -m evaluation.choose runs/S.10/fold* runs/T3.2/fold* --gap runs/S.10/gap/t3/gap.json --domain t3 \\
        --out runs/chosen/t3
    python evaluate.py runs/chosen/t3/choice.json --images lom --out segmented

Runs that differ in fold only are one candidate, an ensemble. Checkpoints that a run kept (--keep-every) are
candidates of their own, and so is the source's model with statistics of the target, halfway, and with what `--gap`
recommends. No label of the target is read: the candidates are ranked by what is expected of them, as evaluation.gap
does. Where the judge cannot say whether a remedy helps, the source's model is kept. Where it cannot say whether an
adaptation does, or which of two is better, they vote. `--score` scores all candidates on the target's labelled test
micrographs afterwards, so that one sees what the choice has cost.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.choose")

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_file
from data.decision import read_decision
from data.store import Store, store_path
from evaluation.judge.choice import Candidate, choose, grouped
from evaluation.judge.export import export
from evaluation.judge.judge import Judge
from evaluation.judge.pages import choice_page
from evaluation.judge.remedies import Remedy, remedies
from evaluation.judge.truth import true_mious
from evaluation.members import Member, load_member, read_otherwise, require_once, require_same_preparation
from training import checkpoint
from training.device import choose_algorithms, choose_device


def free(adabn: bool, matched: bool) -> dict[str, Remedy]:
    """Remedies that are candidates without asking, by the folder of their checkpoints, as of remedies.remedies."""
    statistics = [("statistics", Remedy(adabn=1.0))] * adabn
    return dict([*statistics, *(("halfway", one) for one in remedies(adabn, matched) if one.is_halfway)])


def remaining(gap: Path, target: Store) -> Remedy:
    """Read the remedy that gap.json recommends, without what the target's store has by now of polarity and levels."""
    decision, prepared = read_decision(gap), target.metadata["parameters"]
    if decision.domain != target.domain:
        raise InputError(f"{gap}: is about {decision.domain}, not {target.domain}. Give the file of that domain.")
    found = json.loads(gap.read_text())
    recommended, now = found["recommended"], prepared.get("pixel_size_nm")
    if (then := found["prepared"].get("pixel_size_nm", now)) != now:  # files of earlier versions have none
        raise InputError(
            f"{gap}: {target.domain} had pixel_size_nm = {then} then, and has {now} in {target.path}. Run "
            "evaluation.gap again."
        )
    try:
        remedy = Remedy(*(recommended[key] for key in ("invert", "match", "scale", "adabn")))
    except KeyError as error:
        raise InputError(f"{gap}: what it recommends has no {error}. Run evaluation.gap again.") from error
    invert = prepared["invert"] != decision.invert
    matched = prepared.get("match") == decision.match and not invert  # which takes the grey levels away again
    return replace(remedy, invert=invert, match=0.0 if matched and remedy.match == 1 else remedy.match)


def members_of(runs: Sequence[Path | str], device: object) -> list[Member]:
    """Members of runs, of the checkpoints that they kept, and of files of checkpoints."""
    found = []
    for run in map(Path, runs):
        found.append(load_member(run, "last", device))
        if found[-1].has_teacher:
            found.append(load_member(run, "last", device, "teacher"))
        if run.is_dir():
            found += [load_member(run, path.stem, device) for path in sorted(run.glob("step*.pt"))]
    return found


def with_teacher_as_model(member: Member, folder: Path) -> Path:
    """Write a checkpoint to a folder, named after its run, whose model is the run's teacher. Returns its path."""
    path = folder / f"{member.run.name}.pt"
    state = {"config": member.config, "preparation": member.preparation, "step": member.step}
    checkpoint.save(path, state | {"model": {k: value.cpu() for k, value in member.model.state_dict().items()}})
    return path


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.choose",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "candidates", nargs="+", metavar="RUN_OR_CHECKPOINT",
        help="the first that knows no target is what the others are measured against",
    )  # fmt: skip
    parser.add_argument("--domain", required=True, metavar="TARGET", help="the unlabelled domain")
    parser.add_argument("--gap", type=Path, metavar="FILE", help="gap.json, whose recommended remedy is a candidate")
    parser.add_argument("--data", default="stores", help="folder of tile stores (default: stores)")
    parser.add_argument("--out", type=Path, required=True, help="folder of choice.json and choice.html")
    parser.add_argument("--score", action="store_true", help="score all candidates too; it does not change the choice")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="keeps what the judge learns of these models")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    options = parser.parse_args(arguments)
    choose_algorithms(deterministic=False, amp="off")
    device = choose_device(options.device)
    require_once(options.candidates)
    candidates = grouped(members_of(options.candidates, device))
    plain = next((one for one in candidates if one.is_generalization), None)
    if plain is None:
        parser.error("none of them is trained on the source alone; add the run that the others are measured against")
    source = Store(store_path(options.data, plain.members[0].config["source"]))
    candidates = [replace(one, foreign=one.members[0].config["source"] != source.domain) for one in candidates]
    target = Store(store_path(options.data, options.domain), labels=False)
    for member in (member for candidate in candidates for member in candidate.members):
        require_same_preparation(member, target)
        if (adapted := member.config.get("target")) and adapted != target.domain:
            raise InputError(f"{member.run}: was adapted to {adapted}, not to {target.domain}. Leave it out.")
        if read := read_otherwise(member, target):
            raise InputError(
                f"{member.run}: was adapted to {target.domain} as it was read then ({read}). Give the --data of that "
                "time."
            )
    recommended = {"remedy": remaining(options.gap, target)} if options.gap else {}
    judge = Judge(plain.members, source, device)
    judge.calibrate(options.calibration)
    out = make_folder(options.out)
    matched = target.metadata["parameters"].get("match") == source.domain
    for folder, remedy in (free(judge.adabn, matched) | recommended).items():
        if all(one.is_adapted or one.remedy != remedy for one in candidates):
            files = export(judge, plain.members, target, remedy, make_folder(out / folder))
            candidates.append(Candidate(f"{plain.name}, {remedy}", tuple(members_of(files, device))))
    choice = choose(judge, candidates, target)

    def files_of(candidate: Candidate, place: int) -> list[Path]:
        if candidate.is_generalization:  # as checkpoints that know how the target's micrographs were taken
            return export(judge, candidate.members, target, Remedy(), make_folder(out / "as_it_is"))
        if candidate.members[0].network == "teacher":  # as checkpoints whose model it is
            folder = make_folder(out / f"teacher{place or ''}")  # two may vote, of runs that have the same names
            return [with_teacher_as_model(member, folder) for member in candidate.members]
        return list(map(Path, candidate.paths))

    taken = choice.chosen.parts or (choice.chosen.candidate,)
    paths = [path for place, part in enumerate(taken) for path in files_of(part, place)]
    truth = {}
    (out / "scores.json").unlink(missing_ok=True)  # of an earlier choice
    if options.score:
        truth = true_mious([one.candidate for one in choice.ranked], Store(target.path), device)
        write_file(out / "scores.json", json.dumps(truth, indent=2) + "\n")
    write_file(out / "choice.html", choice_page(choice, truth))
    write_file(out / "choice.json", choice.as_json([os.path.relpath(path, out) for path in paths]))  # the last
    print("\n".join([f"{options.domain}: {choice.sentence}", *choice.remarks, str(out / "choice.html")]))
    for one in choice.ranked:
        scored = f", scored {100 * truth[one.candidate.name]:.1f}" if truth else ""
        print(f"  {one.candidate.name}: expected {one.expected}{scored}")


if __name__ == "__main__":
    main()
