"""The house: commands that say how they are started, and what holds in every folder."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("common", "data", "models", "losses", "training", "evaluation", "launch", "benchmarks")
MODULES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TYPED = (
    "common",
    "data",
    "models",
    "losses",
    "training",
    "launch",
    "benchmarks",
)  # folders whose functions all have type hints
PLAIN = ("common", "data", "models", "losses", "training", "launch", "benchmarks")
COMMANDS = [path for path in MODULES if '__name__ == "__main__"' in (ROOT / path).read_text()]


@pytest.mark.parametrize("path", COMMANDS, ids=str)
def test_a_command_started_by_its_path_says_how(path: Path, tmp_path: Path):
    """Python looks for modules beside the file then, and finds none of the project's."""
    module = ".".join(path.with_suffix("").parts).removesuffix(".__main__")
    for folder, file in ((ROOT, path), (tmp_path, ROOT / path)):
        ended = subprocess.run([sys.executable, file], cwd=folder, capture_output=True, text=True, check=False)
        assert ended.returncode == 1 and not ended.stdout
        assert ended.stderr == f"error: start it in the project's folder: python -m {module}\n"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] in TYPED], ids=str)
def test_every_function_has_type_hints(path: Path):
    functions = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef)]
    assert [f"{path}:{f.lineno} {f.name}: {name}" for f in functions for name in _untyped(f)] == []


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] in PLAIN], ids=str)
def test_docstrings_start_with_a_verb_or_a_noun(path: Path):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(_tree(path)) if isinstance(node, documented)]
    assert [text for text in filter(None, found) if re.match(r"(Whether|What|Those|Of)\b", text)] == []


def _untyped(function: ast.FunctionDef) -> list[str]:
    """Parameters without an annotation, and 'return' where that of the result is missing."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    bare = [one.arg for one in named if one and not one.annotation and one.arg not in ("self", "cls")]
    return bare + ["return"] * (function.returns is None and function.name != "__init__")


def _tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())
