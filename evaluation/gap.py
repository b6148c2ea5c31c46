"""Say before any training what a source-trained model is worth on an unlabelled target, and what would help.

    python -m evaluation.gap runs/S.10/fold* --domain t3
    python -m evaluation.gap runs/sem --domain lom --data stores --out runs/gap/lom

tries what costs no training on the target's training micrographs: polarity, scale, grey levels of the source,
statistics of the target, alone and together, and both half of the way. It writes gap.json and gap.html: the mIoU to
expect of each, with an interval, and what to do. No label of the target is read. What the criteria mean is learnt
from held-out source micrographs, disturbed in known ways (evaluation/judge). `--score` measures the model as it is
and the recommended remedy on labelled test micrographs afterwards; it changes nothing else.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.gap")

import argparse
import json
import shlex
from pathlib import Path

from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_file
from data.store import Store, store_path
from evaluation.judge.choice import Candidate
from evaluation.judge.export import export
from evaluation.judge.judge import Judge
from evaluation.judge.pages import gap_page
from evaluation.judge.remedies import Remedy
from evaluation.judge.search import measure
from evaluation.judge.truth import true_mious
from evaluation.members import by_fold, load_member, require_once, require_same_preparation
from training.device import choose_algorithms, choose_device


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.gap",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="source-trained runs; several folds are better")
    parser.add_argument("--domain", nargs="+", required=True, metavar="TARGET", help="unlabelled domains, in turn")
    parser.add_argument("--data", default="stores", help="folder of tile stores (default: stores)")
    parser.add_argument("--checkpoint", default="last", help="of the runs: last (default), best, or a milestone")
    parser.add_argument("--out", type=Path, help="folder to write to (default: gap/<domain> beside the first run)")
    parser.add_argument("--score", action="store_true", help="score what is recommended too, and the model as it is")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="keeps what the judge learns of these models")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    options = parser.parse_args(arguments)
    if options.out and len(options.domain) > 1:
        parser.error("--out takes one --domain at a time")
    choose_algorithms(deterministic=False, amp="off")
    device = choose_device(options.device)
    require_once(options.runs)
    members = by_fold(load_member(run, options.checkpoint, device) for run in options.runs)
    for member in members:
        if member.config.get("target") or member.remedy != Remedy():
            raise InputError(
                f"{member.run}: adapted, or changed by a remedy; give runs that were trained on the source"
            )
    source = Store(store_path(options.data, members[0].config["source"]))
    targets = [Store(store_path(options.data, name), labels=False) for name in options.domain]
    for store in (source, *targets):
        for member in members:
            require_same_preparation(member, store)
    if source.domain in options.domain:
        raise InputError(f"--domain {source.domain}: the runs were trained on it; give another domain")
    judge = Judge(members, source, device)
    judge.calibrate(options.calibration)
    for target in targets:
        gap = measure(judge, target, f"remedies for {target.domain}")
        out = options.out or members[0].run.parent / "gap" / target.domain
        remedy = gap.advice.recommended.remedy
        files = export(judge, members, target, remedy, make_folder(out))
        truth = {}
        (out / "scores.json").unlink(missing_ok=True)  # of an earlier report
        if options.score:
            remedied = [load_member(file, "last", device) for file in files]
            scored = {Remedy(): members, remedy: remedied}
            candidates = [Candidate(str(one), tuple(group)) for one, group in scored.items()]
            truth = true_mious(candidates, Store(target.path), device)
            write_file(out / "scores.json", json.dumps(truth, indent=2) + "\n")
        write_file(out / "gap.html", gap_page(gap, truth))
        write_file(out / "gap.json", gap.as_json())  # the last: with it, all is there
        print("\n".join([f"{target.domain}: {gap.advice.sentence}", *gap.remarks, str(out / "gap.html")]), flush=True)
        print(*(f"  {name}: scored {100 * miou:.1f}" for name, miou in truth.items()), sep="\n", end="\n" * bool(truth))
        words = [*map(str, files), *["--ensemble"] * (len(members) > 1)]
        print(f"To segment with it: python evaluate.py {shlex.join(words)} --images ...")


if __name__ == "__main__":
    main()
