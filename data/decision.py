"""Decisions of evaluation.gap about a domain's micrographs, for data.prepare."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.errors import InputError
from data.domains import Domain
from data.store import Store


@dataclass(frozen=True)
class Decision:
    """Polarity and grey levels that the judge recommends for a domain.

    A scale is a fact of the microscope, so that a person has to correct it. match: the domain whose grey levels are
    taken, or None.
    """

    domain: str
    invert: bool
    match: str | None

    def apply(self, domain: Domain, domains: dict[str, Domain], path: Path) -> Domain:
        """Change a domain accordingly. InputError where its grey levels' domain is not in domains.toml, `path`."""
        like = domains.get(self.match)
        if self.match and (like is None or like.match or self.match == domain.name):
            raise InputError(
                f"{path}: {domain.name} is to be given the grey levels of {self.match}, which has to be another domain "
                "of this file, without `match`. Add it, or prepare without --gap."
            )
        return replace(domain, invert=self.invert, match=self.match)

    def as_parameters(self) -> dict:
        """Give what a store records of it."""
        return {key: value for key, value in asdict(self).items() if key != "domain"}


def read_decision(path: Path | str) -> Decision:
    """Read the recommendation of a gap.json. InputError where it is none."""
    try:
        gap = json.loads(Path(path).read_text())
        remedy, before = gap["recommended"], gap["prepared"]
        match = gap["source"] if remedy["match"] == 1 else before["match"]
        decision = Decision(gap["target"], before["invert"] != remedy["invert"], match)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable gap.json ({error!r}). Run evaluation.gap again.") from error
    return decision


def recorded(store: Path) -> Decision | None:
    """Read the decision that a store was prepared by; None without a store or a decision."""
    decision = Store(store).metadata["parameters"].get("gap") if store.exists() else None
    return decision and Decision(store.stem, **decision)


def undecided(domain: Domain) -> Domain:
    """Prepare a domain whose `invert = "auto"` nothing has decided yet as it is, with a remark."""
    print(
        f'{domain.name}: invert = "auto" is not decided yet, so it is not inverted. Train on the source, run '
        "evaluation.gap, and prepare again with --gap."
    )
    return replace(domain, invert=False)
