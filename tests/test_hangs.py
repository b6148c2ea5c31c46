"""No wait without an end: after an error or a second signal a program is gone within seconds, whatever its children do.

Many more kills: tests/faults/kill_and_resume.py.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import ROOT, command, run
from short_runs import differences, steps_on_record, supervised_arguments

from common.errors import InputError
from data.store import Store
from data.tiles import UnlabelledTiles, batches, loader_failure
from training import checkpoint

SECONDS = 20  # in which it has to be gone; a busy machine takes a multiple of the second that is usual
KEY = "0123456789abcdef0123456789abcdef01234567"


class Started:
    """A program that runs, in a session of its own, and what it prints."""

    def __init__(self, folder: Path, line: list[str], **variables: str):
        self.log = folder / "log"
        environment = os.environ | variables
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                line, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        self.me = psutil.Process(self.process.pid)

    def wait_for(self, condition: Callable[[], object], seconds: float = 100) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def ended(self, seconds: float = SECONDS) -> tuple[int, str]:
        """Return exit status and output; the whole session is gone then, or the test fails."""
        try:
            status = self.process.wait(seconds)
            end = time.monotonic() + 2
            while left := [p for p in psutil.process_iter(["pid"]) if _session(p) == self.process.pid]:
                assert time.monotonic() < end, left
                time.sleep(0.05)
        finally:
            for process in psutil.process_iter(["pid"]):
                if _session(process) == self.process.pid:
                    process.kill()
        return status, self.log.read_text()


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else 0
    except (ProcessLookupError, psutil.NoSuchProcess):
        return 0


def training(stores: Path, folder: Path, *more: object, processes: int = 0) -> list[str]:
    return command("train_supervised.py", *supervised_arguments(stores, folder / "run", *more), processes=processes)


def stopped_workers(started: Started, folder: Path, ranks: list[psutil.Process], step: int = 3) -> None:
    """Stop all loader processes of a run after some steps (SIGSTOP), and wait until it waits for them."""
    started.wait_for(lambda: steps_on_record(folder / "run") >= step)
    for rank in ranks:
        for worker in rank.children():
            worker.suspend()
    record = -1
    while record != (record := steps_on_record(folder / "run")):
        time.sleep(1)


def test_a_long_tmpdir_is_refused_before_anything_starts(stores, tmp_path):
    for length in (75, 76):
        folder = tmp_path / str(length)
        folder.mkdir()
        short = Path(f"/tmp/hangs_{os.getpid()}_")
        place = Path(f"{short}{'x' * (length - len(str(short)))}")
        place.mkdir()
        try:
            line = training(stores, folder, "--steps", 1, "--workers", 1)
            status, text = Started(folder, line, TMPDIR=str(place)).ended(60)
        finally:
            place.rmdir()
        if length == 75:
            assert status == 0, text
        elif status:  # later Pythons choose another folder themselves
            assert status == 2 and text.startswith(f"error: TMPDIR={place}") and text.count("\n") == 1
            assert "shorter TMPDIR" in text and "75 bytes" in text and "--workers 0" in text
            assert not (folder / "run").exists()


def test_the_end_of_a_loader_process_is_an_error_of_the_loader_and_of_nothing_else(stores):
    """Raised elsewhere, for instance while a checkpoint was written, it ended the process by SIGABRT."""
    tiles = UnlabelledTiles(Store(stores / "labelled.h5", labels=False), 0, "basic", 0)
    ready = batches(tiles, 1, 0, 100, 1, SimpleNamespace(rank=0, world=1, device=torch.device("cpu")))
    next(ready)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    time.sleep(0.5)  # here it was raised
    with pytest.raises(InputError, match="--workers 0"):
        list(ready)


def test_a_killed_loader_process_is_one_message(stores, tmp_path):
    started = Started(tmp_path, training(stores, tmp_path, "--steps", 1000, "--workers", 2, "--checkpoint-every", 1))
    started.wait_for(lambda: steps_on_record(tmp_path / "run") >= 2)
    started.me.children()[1].kill()
    status, text = started.ended()
    assert status == 2 and "Traceback" not in text and text.count("error: ") == 1
    assert all(word in text for word in ("killed", "emory", "/dev/shm", "--workers 0", "last checkpoint"))
    assert checkpoint.load(tmp_path / "run")["step"] >= 1  # that of the step after it may not have been begun


def test_a_small_dev_shm_is_one_message(stores, tmp_path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mounts here")
    line = training(stores, tmp_path, "--batch-size", 16, "--workers", 2)
    script = 'mount -t tmpfs -o size=32k tmpfs /dev/shm && exec "$@"'
    status, text = Started(tmp_path, ["unshare", "-m", "bash", "-c", script, "bash", *line]).ended(60)
    assert status == 2 and "Traceback" not in text and text.count("error: ") == 1
    assert all(word in text for word in ("emory", "/dev/shm", "--workers 0"))


def test_a_request_to_stop_does_not_wait_for_a_batch_that_never_comes(stores, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    run(*training(stores, whole)[1:])
    started = Started(broken, training(stores, broken, "--workers", 1))
    stopped_workers(started, broken, [started.me])
    started.process.send_signal(signal.SIGTERM)
    status, text = started.ended()
    assert status == 75 and "stopped by SIGTERM" in text and "Traceback" not in text
    assert checkpoint.load(broken / "run")["step"] == steps_on_record(broken / "run")
    run(*training(stores, broken)[1:])
    assert differences(whole / "run", broken / "run") == []


def test_a_signal_that_meets_a_destructor_interrupts_all_the_same():
    """No exception comes out of a destructor: Python prints it and goes on."""
    script = """
import os, signal, time
from training.preemption import Interrupted, StopRequest

class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)

request = StopRequest()
try:
    with request.interrupts():
        Ends()
        time.sleep(30)
except Interrupted:
    print("interrupted by", request.received)
"""
    done = run("-c", script, timeout=20)
    assert done.stdout.strip() == "interrupted by SIGINT" and not done.stderr


def test_ctrl_c_at_the_exit_of_a_program_ends_it_without_a_traceback():
    script = """
import atexit, os, signal
from common.errors import exits_cleanly

atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))

@exits_cleanly
def main():
    print("done", flush=True)

main()
"""
    done = run("-c", script, timeout=20, ok=False)
    assert done.returncode == -signal.SIGINT and done.stdout.strip() == "done" and not done.stderr


def test_two_ctrl_c_end_a_run_that_waits_for_its_first_batch(stores, tmp_path):
    line = training(stores, tmp_path, "--batch-size", 1 << 16, "--micro-batch", 2, "--workers", 2)
    started = Started(tmp_path, line)
    started.wait_for(lambda: "| 0/" in started.log.read_text() and len(started.me.children()) == 2)
    for _ in range(2):
        if started.process.poll() is None:
            os.killpg(started.process.pid, signal.SIGINT)
        time.sleep(0.5)
    _, text = started.ended()
    assert ("stopped by SIGINT after 0" in text or "by a second SIGINT" in text) and "Traceback" not in text


def test_a_second_signal_ends_processes_that_wait_for_each_other(stores, tmp_path):
    """One waits for its batch, the other for the first, outside of Python: neither would hear a handler of Python's."""
    more = ("--workers", 1, "--batch-norm", "frozen", "--steps", 1000, "--checkpoint-every", 1)
    started = Started(tmp_path, training(stores, tmp_path, *more, processes=2))
    started.wait_for(lambda: steps_on_record(tmp_path / "run") >= 1)
    stopped_workers(started, tmp_path, started.me.children()[1:])
    for _ in range(2):
        started.process.send_signal(signal.SIGTERM)  # torchrun passes it on
        time.sleep(1)
    status, text = started.ended()
    assert status and text.count("stopped at once by a second SIGTERM") == 2
    assert checkpoint.load(tmp_path / "run")["step"] >= 1


def test_processes_end_with_their_torchrun(stores, tmp_path):
    """Else they hold the run, and the same command is refused."""
    more = ("--workers", 1, "--batch-norm", "frozen", "--steps", 1000)
    started = Started(tmp_path, training(stores, tmp_path, *more, processes=2))
    started.wait_for(lambda: steps_on_record(tmp_path / "run") >= 1)
    ranks = started.me.children()
    stopped_workers(started, tmp_path, ranks[1:])
    started.process.kill()
    _, alive = psutil.wait_procs(ranks, 2 * SECONDS)
    started.ended()
    assert not alive


def test_compile_without_a_compiler_is_one_message(stores, tmp_path):
    status, text = Started(tmp_path, training(stores, tmp_path, "--compile"), CXX="/nonexistent/g++").ended(60)
    assert status == 2 and text.count("\n") == 1 and not (tmp_path / "run").exists()
    assert all(word in text for word in ("error: --compile", "C++ compiler", "/nonexistent/g++", "CXX"))


def test_wandb_goes_on_offline_where_nobody_answers(stores, tmp_path):
    with socket.create_server(("127.0.0.1", 0), backlog=100) as deaf:  # it takes connections and says nothing
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        line = training(stores, tmp_path, "--steps", 2, "--wandb", "online")
        began = time.monotonic()
        status, text = Started(tmp_path, line, WANDB_API_KEY=KEY, WANDB_BASE_URL=address).ended(90)
    assert status == 0 and text.count("W&B") == 1 and "Traceback" not in text, text
    assert f"wandb sync {tmp_path}/run/wandb/offline-run-*" in text and time.monotonic() - began < 60
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1


class FallsSilent(BaseHTTPRequestHandler):
    """W&B's server, which answers what is asked at the start of a run, and nothing after it."""

    silent = threading.Event()

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.silent.is_set():
            time.sleep(100)
        answer = b'{"data": {"model": {"id": "p", "name": "p", "bucket": null}}}'
        if b"UpsertBucket" in asked:
            self.silent.set()
            project = b'{"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}'
            answer = (
                b'{"data": {"upsertBucket": {"inserted": true, "bucket": {"id": "r", "name": "r", "displayName": "r", '
            )
            answer += b'"historyLineCount": 0, "project": ' + project + b"}}}}"
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def test_a_score_is_printed_before_a_network_that_is_lost_is_waited_for(stores, supervised, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), FallsSilent)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    line = command("evaluate.py", supervised, "--data", stores, "--domain", "labelled", "--wandb", "online")
    address = f"http://127.0.0.1:{server.server_port}"
    status, text = Started(tmp_path, line, WANDB_API_KEY=KEY, WANDB_BASE_URL=address).ended(90)
    server.shutdown()
    assert FallsSilent.silent.is_set() and status == 0 and "Traceback" not in text, text
    assert text.count("W&B") == 1 and 0 < text.index("mIoU") < text.index("wandb sync")


def drawing(folder: Path) -> Started:
    """Start a program that works in a pool of processes, and wait until it does."""
    line = command("-m", "data.synthetic_nanosem", "--out", folder / "pictures", "--images", 5000, "--workers", 2)
    started = Started(folder, line)
    started.wait_for(lambda: len(started.me.children()) == 2 and any((folder / "pictures").rglob("*.*")))
    return started


@pytest.mark.parametrize("workers_are", ["working", "stopped"])
def test_ctrl_c_ends_a_pool_with_one_message(tmp_path, workers_are):
    started = drawing(tmp_path)
    if workers_are == "stopped":
        for worker in started.me.children():
            worker.suspend()
    os.killpg(started.process.pid, signal.SIGINT)
    status, text = started.ended()
    assert status == 130 and text.count("stopped by Ctrl-C") == 1 and "Traceback" not in text, text


def test_a_pool_ends_with_a_worker_that_is_killed_and_with_its_program(tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "other").mkdir()
    started = drawing(tmp_path / "one")
    started.me.children()[0].kill()
    status, text = started.ended()
    assert status == 2 and text.count("error: drawing: ") == 1 and "--workers" in text and "Traceback" not in text
    started = drawing(tmp_path / "other")
    started.process.kill()
    started.ended()  # and no worker is left


def test_every_error_of_a_loader_whose_process_is_gone_is_explained():
    """What of a batch had come already decides what the main process sees."""
    here = [ConnectionResetError(104, "Connection reset by peer"), FileNotFoundError(2, "No such file"), EOFError()]
    here += [
        RuntimeError(f"{who} exited unexpectedly") for who in ("DataLoader worker (pid(s) 7)", "Pin memory thread")
    ]
    for error in here:
        assert "--workers 0" in str(loader_failure(error))
    for error in (ValueError("1"), OSError("Caught OSError in DataLoader worker process 0.\nOSError: it is damaged")):
        assert loader_failure(error) is None
