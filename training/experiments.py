"""The experiments of launch/experiments.toml: named values of the scripts' options."""

import tomllib
from pathlib import Path

from common.errors import InputError, require_file_name

EXPERIMENTS = Path(__file__).parent.parent / "launch" / "experiments.toml"
# What an entry says beside the values of options; the first lines of experiments.toml explain each.
SELECTION = ("mean", "test_mean", "test_images")
FACTS = {"script", "extends", "source_tiles", "reference", "run", "domain", "folds", *SELECTION}


def read_experiments(path: Path = EXPERIMENTS) -> dict[str, dict]:
    """All experiments of a file, what they extend filled in. InputError on a damaged file or an unknown name.

    A file with `base = "other.toml"` takes over that file's experiments; an entry of the same name overrides single
    values of the base's, and so those of every entry that extends it.
    """
    raw = _read(Path(path))

    def resolve(name: str, seen: tuple[str, ...]) -> dict:
        if name not in raw or name in seen:
            raise InputError(f"{path}: no experiment {name!r} to extend. There are: {', '.join(raw)}.")
        entry = raw[name]
        require_file_name(name, f"{path}: experiment")
        return {**(resolve(entry["extends"], (*seen, name)) if "extends" in entry else {}), **entry}

    resolved = {name: resolve(name, ()) for name in raw}
    for name, entry in resolved.items():
        if "script" not in entry:
            raise InputError(f"{path}: {name!r} says neither `script` nor what it `extends`. Add one of them.")
    return resolved


def runs_root(path: Path = EXPERIMENTS) -> Path:
    """The folder that the runs of a file's experiments go to: its `runs`, by default 'runs'."""
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
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable file of experiments ({error}). Give another --experiments.") from error
