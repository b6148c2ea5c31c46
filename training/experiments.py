"""The experiments of launch/experiments.toml and launch/methods.toml: named values of the scripts' options."""

import tomllib
from pathlib import Path

from common.errors import InputError, require_file_name

EXPERIMENTS = Path(__file__).parent.parent / "launch" / "experiments.toml"  # the study's
METHODS = EXPERIMENTS.with_name("methods.toml")  # those and everything past them
# What an entry says beside the values of options; the first lines of experiments.toml explain each.
SELECTION = ("mean", "test_mean", "test_images")
OWN = ("study", "default")  # what an entry says of itself alone, and not of those that extend it
FACTS = {"script", "extends", "source_tiles", "reference", "start", "run", "domain", "folds", *OWN, *SELECTION}


def read_experiments(path: Path = EXPERIMENTS) -> dict[str, dict]:
    """Read all experiments of a file, what they extend filled in. InputError on a damaged file or an unknown name.

    A file with `base = "other.toml"` takes over that file's experiments; an entry of the same name overrides single
    values of the base's, and so those of every entry that extends it.
    """
    raw = _read(Path(path))

    def resolve(name: str, seen: tuple[str, ...]) -> dict:
        if name not in raw or name in seen:
            raise InputError(f"{path}: no experiment {name!r} to extend. There are: {', '.join(raw)}.")
        entry = raw[name]
        require_file_name(name, f"{path}: experiment")
        extended = resolve(entry["extends"], (*seen, name)) if "extends" in entry else {}
        return {**{key: value for key, value in extended.items() if key not in OWN}, **entry}

    resolved = {name: resolve(name, ()) for name in raw}
    for name, entry in resolved.items():
        if "script" not in entry:
            raise InputError(f"{path}: {name!r} says neither `script` nor what it `extends`. Add one of them.")
    return resolved


def default_experiment(experiments: dict[str, dict], script: str, source: str, target: str | None) -> str | None:
    """Name of the entry that a script and its domains mean: the one that says `default = true`, else the only one.

    None where there is none. InputError when several could be meant.
    """
    wanted = (script, source, target)
    fitting = {n: e for n, e in experiments.items() if (e["script"], e.get("source"), e.get("target")) == wanted}
    names = [name for name, entry in fitting.items() if entry.get("default")] or list(fitting)
    if len(names) > 1:
        domains = " to ".join(filter(None, (source, target)))
        raise InputError(
            f"{script}, {domains}: experiments {', '.join(names)} have these domains. Give --experiment, or let one "
            "of them say `default = true`."
        )
    return names[0] if names else None


def runs_root(path: Path = EXPERIMENTS) -> Path:
    """Folder that the runs of a file's experiments go to: its `runs`, by default 'runs'."""
    return Path(_load(Path(path)).get("runs", "runs"))


def _read(path: Path) -> dict[str, dict]:
    """The tables of a file as they stand, merged over those of its base."""
    content = _load(path)
    entries = {name: entry for name, entry in content.items() if isinstance(entry, dict)}
    unknown = content.keys() - entries.keys() - {"base", "runs"}
    if unknown:
        raise InputError(f"{path}: {', '.join(sorted(unknown))} is neither an experiment nor `base` or `runs`.")
    before = _read(path.parent / content["base"]) if "base" in content else {}
    names = dict.fromkeys([*before, *entries])
    return {name: {**before.get(name, {}), **entries.get(name, {})} for name in names}


def _load(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable file of experiments ({error}). Give another --experiments.") from error
