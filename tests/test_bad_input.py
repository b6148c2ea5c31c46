"""Bad input of every kind: one clear message and a non-zero exit, no traceback, every existing file as it was.

    FAULT_TABLE=runs/faults.md python -m pytest tests/test_bad_input.py

writes what the user reads for each fault. Input that only looks bad (16 bit, alpha, odd names) is in it and must work.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input import ADAPT, DOMAINS, FAULTS, SCORE, TRAIN, Fault, call
from conftest import ROOT, draw

_SHOWN = 320  # characters of a message


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[Path]:
    """A laboratory with micrographs, stores and two trained runs, of which the first is scored."""
    folder = tmp_path_factory.mktemp("template")
    draw(folder / "source", 4, seed=1, contrast=1.0)
    draw(folder / "target", 4, seed=2, contrast=0.5)
    draw(folder / "plain", 2, seed=3, contrast=0.5)
    (folder / "domains.toml").write_text(DOMAINS)
    with contextlib.chdir(folder):
        train = f"{TRAIN} --run-dir runs/s"
        for command in (
            "prepare domains.toml --out stores",
            train,
            f"{ADAPT} --run-dir runs/t --reference runs/s",
            SCORE.replace("labelled", "source"),
        ):
            status, printed = call(command)
            assert status == 0, printed
    return folder


@pytest.fixture(scope="module")
def table() -> Iterator[dict[Fault, str]]:
    """Messages by fault; they are written where FAULT_TABLE asks for it."""
    messages = {}
    yield messages
    if path := os.environ.get("FAULT_TABLE"):
        assert len(messages) == len(FAULTS), "a table of some faults only is not written"
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(page(messages), encoding="utf-8")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.area}: {fault.name}")
def test_one_message_and_nothing_changed(template, table, tmp_path, monkeypatch, fault):
    laboratory = tmp_path / "laboratory"
    shutil.copytree(template, laboratory)
    monkeypatch.chdir(laboratory)
    monkeypatch.setenv("WORLD_SIZE", "1")  # restored afterwards, whatever a fault makes of it
    fault.spoil()
    commands = (fault.commands,) if isinstance(fault.commands, str) else fault.commands
    before = contents()
    with as_anybody(laboratory) if fault.permissions else contextlib.nullcontext():
        *earlier, (status, printed) = [call(command) for command in commands]
    assert all(status == 0 for status, _ in earlier) and (status == 0) == fault.works, printed
    after = contents()
    assert {path: after.get(path) for path in before} == before, "a file was changed or deleted"
    assert not [path for path in after.keys() - before.keys() if not path.startswith(fault.leaves)]
    message = said(printed, fault.works)
    for fragment in fault.says:
        assert fragment in message
    assert "Traceback" not in printed
    table[fault] = message


def contents() -> dict[str, str]:
    """Return the SHA-256 of every file below the current folder, and a mark for what is no file."""
    found = {}
    for path in sorted(Path().rglob("*")):
        if path.is_file() and os.access(path, os.R_OK):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not path.is_dir():
            found[str(path)] = "no file"
    return found


@contextlib.contextmanager
def as_anybody(folder: Path) -> Iterator[None]:
    """Let root, who may read everything, be user 65534 meanwhile, to whom all that is in the folder belongs."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root that may not become another user: permissions bind nobody here")
    try:
        yield
    finally:
        os.seteuid(0)


def said(printed: str, works: bool) -> str:
    """Return the message: what stands after `error: `, or where it works what was printed."""
    printed = re.sub(r"[^\r\n]*\d+%\|[^\r\n]*?\](?=error|[\r\n])", "", printed)  # progress bars
    lines = [line.rstrip() for line in re.split(r"[\r\n]", printed) if line.strip()]
    if works:
        return " ".join(lines)
    starts = [number for number, line in enumerate(lines) if re.search(r"^(\S+: |python -m \S+: )?error: ", line)]
    assert len(starts) == 1, printed
    return " ".join(line.strip() for line in lines[starts[0] :]).partition("error: ")[2]


def page(messages: dict[Fault, str]) -> str:
    """Write the Markdown page: fault -> message, area by area."""
    lines = [
        "# What is said to bad input",
        "",
        f"Made by `FAULT_TABLE=runs/faults.md python -m pytest tests/test_bad_input.py`: "
        f"{sum(not fault.works for fault in messages)} faults, each of which ends its program with a non-zero exit "
        "and this one message, without a traceback, every existing file as it was before; and "
        f"{sum(fault.works for fault in messages)} kinds of input that look odd and work. Paths are relative to the "
        "test's folder; long messages are cut.",
    ]
    areas = dict.fromkeys(fault.area for fault in messages)
    for area in sorted(areas):
        lines += ["", f"## {area}", "", "| fault | message |", "|---|---|"]
        of_area = sorted((fault for fault in messages if fault.area == area and not fault.works), key=lambda f: f.name)
        lines += [f"| {_cell(fault.name)} | {_cell(messages[fault])} |" for fault in of_area]
    lines += ["", "## What works", "", "| input | |", "|---|---|"]
    working = sorted((fault for fault in messages if fault.works), key=lambda f: (f.area, f.name))
    for fault in working:
        warning = re.search(r"warning: .*?(?= warning: | \d+ stores verified|$)", messages[fault])
        lines.append(
            f"| {fault.area}: {_cell(fault.name)} | {_cell(warning[0]) if warning else 'prepared, verified'} |"
        )
    return "\n".join(lines) + "\n"


def _cell(message: str) -> str:
    message = message.replace(str(ROOT), "<project>").replace("|", "\\|").replace("<", "&lt;").replace("\0", "\\0")
    return message if len(message) <= _SHOWN else message[:_SHOWN].rpartition(" ")[0] + " …"
