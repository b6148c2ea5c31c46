"""Nothing that is read is executed, no name that is read leads out of a folder, nothing goes online unasked."""

import ast
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from short_runs import supervised_arguments, uda_arguments

from common.errors import InputError, require_file_name
from data.domains import read_domains
from data.selection_file import read_selection, write_selection
from data.store import Store, StoreWriter, store_path
from evaluation import report, tables
from models import build
from training import checkpoint, tracking
from training.configuration import parse
from training.experiments import read_experiments
from training.weights import load_pretraining

NO_CODE = {"tests", "runs", "stores", "wandb", "wheels", "micrographs"}  # beside hidden folders, such as .venv
FOLDERS = [folder for folder in ROOT.glob("[!.]*/") if folder.name not in NO_CODE]
PRODUCT = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in folder.rglob("*.py"))])
OUTSIDE = ["../x", "../../x", "/x", "/tmp/x", "a/b", "..", ".", "", "a\0b", "a\nb", "..\\x", "x" * 300]
MARKUP = "<script>alert(1)</script>\"'&"


# ---- nothing is executed ------------------------------------------------------------------------------------------


def executes(source: str) -> list[str]:
    """List what a Python source does that could execute what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in _EXECUTING_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _EXECUTING_MODULES:
            found += [alias.name for alias in node.names if alias.name != "UnpicklingError"]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load"):
                found.append(name)
            elif name in ("torch.load", "load_state_dict_from_url") and options.get("weights_only") != "True":
                found.append(f"{name} without weights_only=True")
            elif options.get("allow_pickle", "False") != "False" or options.get("shell", "False") != "False":
                found.append(name)
    return found


_EXECUTING_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "code", "runpy"}


def test_no_source_executes_what_it_reads():
    folders = {path.parent.relative_to(ROOT).as_posix() for path in PRODUCT}
    assert folders > {".", "common", "data", "models", "losses", "training", "evaluation", "launch", "benchmarks"}
    assert {str(path): found for path in PRODUCT if (found := executes(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from yaml import load", "torch.load(path)", "torch.load(path, weights_only=False)", "eval(text)",
     "np.load(path, allow_pickle=True)", "subprocess.run(text, shell=True)", "torch.load(path, weights_only=some)"],
)  # fmt: skip
def test_what_would_execute_is_found(source):
    assert executes(source)


class Payload:
    """A file appears as soon as it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_or_in_weights_is_refused_and_not_executed(tmp_path):
    mark, file = tmp_path / "executed", tmp_path / "last.pt"
    payload = Payload(mark)
    for content in (payload, {"version": 1, "config": {}, "model": payload}, {"model": {"a": payload}}):
        for legacy in (False, True):
            torch.save(content, file, _use_new_zipfile_serialization=not legacy)
            for read in (
                lambda: checkpoint.load(file),
                lambda: checkpoint.load_model(tmp_path),
                lambda: load_pretraining(build("deeplabv2_small"), "deeplabv2_small", str(file)),
            ):
                with pytest.raises(InputError, match=r"last\.pt"):
                    read()
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists(), "the payload would have worked"


# ---- no name leads out of a folder --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused(stores, tmp_path, name):
    with pytest.raises(InputError):
        require_file_name(name, "a name")

    (tmp_path / "domains.toml").write_text(
        f'[options]\nreference = {json.dumps(name)}\n[domains.{json.dumps(name)}]\nimages = "."\npixel_size_nm = 1\n'
    )
    with pytest.raises(InputError, match=r"domains\.toml"):
        read_domains(tmp_path / "domains.toml")

    (tmp_path / "own.toml").write_text(f'[{json.dumps(name)}]\nscript = "train_uda"\n')
    with pytest.raises(InputError, match=r"own\.toml"):
        read_experiments(tmp_path / "own.toml")

    for domain, micrograph in ((name, "a"), ("a", name)):
        with StoreWriter(tmp_path / "a.h5", 16, 0) as writer:
            writer.add(np.zeros((16, 16), np.uint8), None, name=micrograph, parent="a")
            source = {"name": "a", "file": "a", "sha256": "0", "fold": -1, "test": False}
            cut = {"tile": 16, "overlap": 0, "scale": 1, "reference_pixel_size_nm": 1, "folds": 0}
            writer.finish({"domain": domain, **cut}, [source])
            writer.place()
        with pytest.raises(InputError, match=r"a\.h5"):
            Store(tmp_path / "a.h5")

    store = Store(store_path(stores, "labelled"))
    write_selection(tmp_path / "chosen.json", store, {0: 0.5}, [name], {})
    with pytest.raises(InputError, match=r"chosen\.json"):
        read_selection(tmp_path / "chosen.json", store)


@settings(derandomize=True, database=None)
@given(name=st.text() | st.lists(st.sampled_from(["..", "/", ".", "\\", "a", "\0", "~"])).map("".join))
def test_a_name_that_is_not_refused_is_one_of_a_file_in_the_folder(name):
    try:
        require_file_name(name, "a name")
    except InputError:
        return
    assert (Path("/folder") / f"{name}.png").resolve(strict=False).parent == Path("/folder")


def test_domains_that_lead_out_do_not_name_a_run():
    for domains in (("--source", "../../x"), ("--source", "/x"), ("--source", "a", "--target", "../x")):
        script = "train_uda" if "--target" in domains else "train_supervised"
        with pytest.raises(InputError, match="file name"):
            parse(script, "", [*domains, "--steps", "1"])


# ---- reports ------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Tags of a page and what their attributes load."""

    def __init__(self, page: str):
        super().__init__()
        self.names, self.loaded = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.loaded += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        assert not [name for name, _ in attributes if name.startswith("on")]


def evil_scores(folder: Path) -> None:
    """Write runs with scores in which every name is markup and leads out of the folder."""
    evil = f"../../{MARKUP}"
    for number, name in enumerate(("S.10", "<b>run")):
        run = folder / name / "fold0"
        place = run / "evaluation" / "source"
        (place / "panels").mkdir(parents=True)
        cv2.imwrite(str(place / "panels" / "x.png"), np.zeros((8, 8, 3), np.uint8))
        (place / "panels" / "x.png").rename(place / "panels" / "<img src=x onerror=alert(1)>.png")
        names = ("experiment", "domain", "variant", "checkpoint", "configuration", "model", "source", "target")
        numbers = {"miou": 0.5, "rdt": 0.1, "phase_fraction_predicted": 0.4, "phase_fraction_label": 0.5, "images": 1}
        score = dict.fromkeys(names, evil) | numbers | {"iou": {"background": 0.5, "foreground": 0.5}}
        score |= {"fold": 0, "seed": number, "step": 1, "runs": [evil], "store_fingerprint": evil, "reference": evil}
        (place / "score.json").write_text(json.dumps(score))
        (run / "config.json").write_text(json.dumps({"experiment": evil, "data": evil, "source": evil, "steps": 1}))
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, MARKUP: 0.5}) + "\n")


def everything_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_tables_write_into_their_folder_only_and_escape_every_name(tmp_path, monkeypatch):
    evil_scores(tmp_path / "deep" / "er" / "runs")
    before, out = everything_below(tmp_path), tmp_path / "deep" / "er" / "out"
    monkeypatch.setattr(sys, "argv", ["tables", str(tmp_path / "deep" / "er" / "runs"), "--out", str(out)])
    tables.main()
    assert all(path == out or out in path.parents for path in everything_below(tmp_path) - before)
    page = (out / "report.html").read_text()
    assert MARKUP not in page and "&lt;script&gt;" in page
    tags = Tags(page)
    assert tags.names <= {
        "html", "head", "meta", "title", "style", "h1", "h2", "h3", "p", "b", "table", "tr", "th", "td", "img",
    }  # fmt: skip
    assert all(loaded.startswith("data:image/jpeg;base64,") for loaded in tags.loaded)


def test_the_demonstrations_page_escapes_every_name(tmp_path):
    numbers = {"miou": 0.5, "phase_fraction_predicted": 0.4, "phase_fraction_label": 0.5}
    score = numbers | {"folder": tmp_path / "run" / "evaluation" / "domain"}
    page = report.demo_page(((MARKUP,), [[MARKUP]]), {MARKUP: {"uda": {MARKUP: score}}}, ["uda", MARKUP], [MARKUP])
    assert "<script" not in page and Tags(page).names.isdisjoint({"script", "i"})


# ---- the network --------------------------------------------------------------------------------------------------

# Notes each connection and name look-up of this process, and refuses them. Sockets between processes of one machine
# (AF_UNIX: a path) are not the network.
_WATCHED = """
import sys
wanted = []
def watch(event, arguments):
    if event == "socket.connect" and not isinstance(arguments[1], (str, bytes)) or event == "socket.getaddrinfo":
        wanted.append(f"{event} {arguments[1:]}")
        raise OSError("no network here")
sys.addaudithook(watch)
import runpy
for command in COMMANDS:
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, command
print("WANTED", wanted, "MODULES", sorted({"wandb", "requests", "sentry_sdk"} & sys.modules.keys()))
"""


def test_disabled_tracking_imports_and_asks_nothing(stores, tmp_path):
    small = ("--steps", 2, "--batch-size", 2, "--validate-every", 1)
    commands = [
        ["train_supervised.py", *supervised_arguments(stores, tmp_path / "s", *small)],
        ["train_uda.py", *uda_arguments(stores, tmp_path / "t", *small)],
        ["evaluate.py", tmp_path / "t", "--data", stores, "--domain", "labelled", "--wandb", "disabled"],
    ]
    code = _WATCHED.replace("COMMANDS", repr([list(map(str, command)) for command in commands]))
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "WANTED [] MODULES []" in result.stdout
    assert not list(tmp_path.rglob("*wandb*"))


def test_tracking_is_offline_without_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    arguments = ["--source", "mine", "--steps", "1"]
    assert parse("train_supervised", "", arguments)["wandb"] == "offline"
    (tmp_path / ".netrc").write_text("machine example.org login me password secret\n")
    assert tracking.default_wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert parse("train_supervised", "", arguments)["wandb"] == "online"
    assert parse("train_supervised", "", [*arguments, "--wandb", "disabled"])["wandb"] == "disabled"
