"""Agreement of a run's processes, before the first step, on what they do and from where they go on."""

from pathlib import Path

from common.errors import InputError

# Options that name a place or a service of a process's own machine.
OF_A_PROCESS = {"data", "run_dir", "workers", "wandb", "wandb_project", "reference", "selection", "pretraining_file"}


def standing(options: dict, stores: str, checkpoint: str | None, error: InputError | None) -> dict:
    """Collect what `refuse_differences` compares of a process: small, whatever the size of its networks.

    stores: a digest of the data. checkpoint: step and digest of what was loaded, None at the start of a run. error: why
    nothing could be loaded.
    """
    compared = {key: repr(value) for key, value in options.items() if key not in OF_A_PROCESS}
    return {
        "options": compared,
        "stores": stores[:8],
        "checkpoint": checkpoint or "no checkpoint",
        "error": str(error) if error else None,
    }


def refuse_differences(folder: Path, standings: list[dict], rank: int) -> None:
    """InputError, on all processes, where one of them could not go on or where they differ; it says which and in what.

    standings: of all processes in the order of their ranks, the same list on all of them.
    """
    failed = {number: one["error"] for number, one in enumerate(standings) if one["error"]}
    if failed:
        number = rank if rank in failed else min(failed)
        raise InputError(failed[number] if number == rank else f"process {number}: {failed[number]}")
    for key, do, remedy in (
        ("stores", "train on different stores", "Give all machines the same"),
        ("options", "have different options", "Give all of them the same"),
        ("checkpoint", "go on from different checkpoints", "Wait until a slow disk shows all the same last.pt"),
    ):
        if found := _differences([one[key] for one in standings]):
            raise InputError(f"{folder}: the processes {do} ({found}). {remedy}, then start the same command again.")


def _differences(values: list) -> str:
    """Describe the values that are not the same for all processes; of options by name."""
    if isinstance(values[0], dict):
        names = sorted({name for value in values for name in value})
        found = {name: _differences([value.get(name) for value in values]) for name in names}
        return "; ".join(f"--{name.replace('_', '-')} {text}" for name, text in found.items() if text)
    ranks = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    texts = [f"process{'es' * (len(of) > 1)} {', '.join(of)}: {value}" for value, of in ranks.items()]
    return ", ".join(texts) if len(texts) > 1 else ""
