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
MODULES += sorted(path.relative_to(ROOT) for path in ROOT.glob("*.py"))
COMMANDS = [path for path in MODULES if len(path.parts) > 1 and '__name__ == "__main__"' in (ROOT / path).read_text()]


@pytest.mark.parametrize("path", COMMANDS, ids=str)
def test_a_command_started_by_its_path_says_how(path: Path, tmp_path: Path):
    """Python looks for modules beside the file then, and finds none of the project's."""
    module = ".".join(path.with_suffix("").parts).removesuffix(".__main__")
    for folder, file in ((ROOT, path), (tmp_path, ROOT / path)):
        ended = subprocess.run([sys.executable, file], cwd=folder, capture_output=True, text=True, check=False)
        assert ended.returncode == 1 and not ended.stdout
        assert ended.stderr == f"error: start it in the project's folder: python -m {module}\n"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_function_has_type_hints(path: Path):
    functions = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef)]
    assert [f"{path}:{f.lineno} {f.name}: {name}" for f in functions for name in _untyped(f)] == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_docstrings_start_with_a_verb_or_a_noun(path: Path):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(_tree(path)) if isinstance(node, documented)]
    assert [text for text in filter(None, found) if re.match(r"(Whether|What|Those|Of)\b", text)] == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_folder_imports_from_those_before_it_only(path: Path):
    """Scripts import from all folders, and nothing imports a script; benchmarks time the scripts' own loops."""
    order = ("common", "data", "models", "losses", "training", "evaluation")
    known, scripts = FOLDERS, {script.stem for script in ROOT.glob("*.py")}
    place = order.index(path.parts[0]) if path.parts[0] in order else len(order)
    imports = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.ImportFrom | ast.Import)]
    for node in imports:
        for name in [node.module] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]:
            top = name.split(".")[0]
            assert top not in scripts or path.parts[0] == "benchmarks", f"{path} imports the script {top}"
            if top in known and place < len(order):
                assert top in order[: place + 1], f"{path} imports {top}"


def _untyped(function: ast.FunctionDef) -> list[str]:
    """Parameters without an annotation, and 'return' where that of the result is missing."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    bare = [one.arg for one in named if one and not one.annotation and one.arg not in ("self", "cls")]
    return bare + ["return"] * (function.returns is None and function.name != "__init__")


def _tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())
