"""The pages: short lines, short sentences, links that lead somewhere, commands that exist."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

LINE = 120  # characters
SENTENCE = 30  # words
OF_OTHERS = {"pytest", "pip", "venv"}  # modules that `python -m` finds outside of the project

_ABBREVIATION = re.compile(r"\b(al|cf|e\.g|i\.e|etc|Fig|vs)\.")
_COMMAND = re.compile(r"python3?\s+-m\s+([A-Za-z_][\w.]*\w)")
_SCRIPT = re.compile(r"(?<![\w/.<>*{-])(?:\w+/)*\w+\.(?:py|sh|sbatch)\b")
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^()\s]+)\)")


def tracked() -> set[str]:
    """Names of the files that git tracks, and of their folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = [name for name in listed if (ROOT / name).exists()]
    return {*files, *(str(folder) for name in files for folder in Path(name).parents)}


def pages() -> list[str]:
    found = sorted(name for name in tracked() if name.endswith(".md"))
    assert "README.md" in found
    return found


def lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (number, kind, line) of a page; kind: prose, code, diff, table or empty.

    Code stands between ``` or is indented by four or more after an empty line.
    """
    fence, before = "", "empty"
    for number, line in enumerate(text.splitlines(), 1):
        marker = line.strip().startswith("```")
        if fence or marker:
            kind = fence or ("diff" if line.strip() == "```diff" else "code")
            fence = "" if marker and fence else kind
        elif not line.strip():
            kind = "code" if before == "code" else "empty"
        elif line.startswith("    ") and before in ("code", "empty"):
            kind = "code"
        else:
            kind = "table" if line.lstrip().startswith("|") else "prose"
        before = "empty" if fence == "" and marker else kind
        yield number, kind, line


def long_lines(text: str) -> list[str]:
    """Prose of more than LINE characters; a link's address does not count."""
    return [
        f"{number}: {line}"
        for number, kind, line in lines(text)
        if kind == "prose" and len(re.sub(r"https?://\S+", "", _LINK.sub(r"\1", line))) > LINE
    ]


def long_sentences(text: str) -> list[str]:
    """Sentences of more than SENTENCE words; a piece of code counts as one word."""
    paragraphs, before = [], "empty"
    for _, kind, line in lines(text):
        if kind == "prose":
            opens = before != "prose" or re.match(r"\s*([-*] |\d+\. |#|!\[)", line)
            paragraphs += [line] if opens else []
            paragraphs[-1] += "" if opens else " " + line.strip()
        before = kind
    found = []
    for paragraph in paragraphs:
        plain = re.sub(r"`[^`]*`", "code", _LINK.sub(r"\1", paragraph))
        plain = _ABBREVIATION.sub(r"\1", re.sub(r"^\s*([-*#]+|\d+\.) ", "", plain))
        for sentence in re.split(r"(?<=[.!?])[*)\]\"]*\s+", plain):
            words = re.findall(r"\S*\w\S*", sentence)
            found += [f"{len(words)} words: {sentence}"] if len(words) > SENTENCE else []
    return found


def dead_links(page: str, text: str, files: set[str]) -> list[str]:
    """Relative links and pictures of a page that lead to no tracked file or folder."""
    found = []
    for _, address in _LINK.findall("\n".join(line for _, kind, line in lines(text) if kind in ("prose", "table"))):
        if not re.match(r"https?:|mailto:|#", address):
            target = (ROOT / page).parent.joinpath(address.partition("#")[0]).resolve()
            if not target.is_relative_to(ROOT) or str(target.relative_to(ROOT)) not in files:
                found.append(address)
    return found


def missing_commands(text: str, files: set[str]) -> list[str]:
    """Modules behind `python -m` and scripts, named in code on a page, that the tree does not hold.

    A block that opens with ```diff may name what is yet to be written.
    """
    blocks = [line for _, kind, line in lines(text) if kind == "code"]
    inline = re.findall(r"`[^`]+`", "\n".join(line for _, kind, line in lines(text) if kind in ("prose", "table")))
    code = "\n".join(blocks + inline)
    found = []
    for module in _COMMAND.findall(code):
        path = module.replace(".", "/")
        if module not in OF_OTHERS and not files & {f"{path}.py", f"{path}/__main__.py"}:
            found.append(f"python -m {module}")
    return found + [script for script in _SCRIPT.findall(code) if script not in files]


@pytest.mark.parametrize("check", [long_lines, long_sentences])
def test_a_page_is_read_once(check):
    assert not {page: found for page in pages() if (found := check((ROOT / page).read_text(encoding="utf-8")))}


def test_what_a_page_names_exists():
    files = tracked()
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        assert not dead_links(page, text, files), page
        assert not missing_commands(text, files), page


def test_every_check_can_fail():
    files = {"train.py", "data/prepare.py", "data/nanosem/__main__.py", "docs", "docs/a.md"}
    words = "word " * 31
    assert long_lines("x" * 121) and not long_lines(f"[{'x' * 100}]({'y' * 100})\n\n| {words * 9} |\n\n    {words * 9}")
    assert long_sentences(words) and long_sentences(f"- Short one. {words}\n- another")
    assert not long_sentences(
        "word " * 20 + "end. " + "word " * 20 + f"\n\n```\n{words}\n```\n\n    {words}\n| {words} |"
    )
    assert dead_links("README.md", "![x\ny](docs/b.png)\n| [z](nowhere) |", files) == ["docs/b.png", "nowhere"]
    assert not dead_links("README.md", "[x](docs/a.md#y) [z](https://a.b) [folder](docs)", files)
    commands = "    python -m data.prepare\n    python -m data.nanosem x\n    python -m data.gone\n    launch/gone.sh\n"
    assert missing_commands(commands + "    python train.py --out other.py", files) == [
        "python -m data.gone", "launch/gone.sh", "other.py",
    ]  # fmt: skip
    assert missing_commands("`python -m data.gone`\n\n```diff\n+ python -m data.new\n```\n", files) == [
        "python -m data.gone"
    ]


def test_the_change_that_extending_shows_is_all_it_takes(tmp_path):
    """Applied to a copy: lint is content, the new option has its test and changes the weights."""
    copied = tmp_path / "copy"
    for name in (name for name in tracked() if (ROOT / name).is_file()):
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copied / name)
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (tmp_path / "change.diff").write_text(page.partition("```diff\n")[2].partition("```")[0])
    python = [sys.executable, "-m"]
    for command in (
        ["git", "apply", str(tmp_path / "change.diff")],
        [*python, "ruff", "check", "."],
        [*python, "ruff", "format", "--check", "."],
        [*python, "pytest", "-q", "tests/test_options.py", "-k", "lambda_squares or no_option_is_without"],
    ):
        ended = subprocess.run(command, cwd=copied, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "squares_loss" in (copied / "losses" / "entropy.py").read_text()
