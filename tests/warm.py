"""Start a script in a process that has the libraries already: forked from a server that has imported them.

Imports take most of the time of a short run. All else is as from a shell: a process of its own, with its own folder,
environment, random numbers and end. Two things are not: all scripts of one server have one seed of hashes, so sets have
one order, and traces of errors begin in this file. Processes under torchrun and launchers import everything anew.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIBRARIES = ("albumentations", "cv2", "h5py", "matplotlib.figure", "scipy.optimize", "scipy.stats", "torch._dynamo")
LIBRARIES += ("torch.utils.data", "torchvision", "tqdm", "wandb")
# Variables that no library has read on its import, or not on a CPU.
OWN = ("PYTEST_", "WANDB_MODE", "CUBLAS_WORKSPACE_CONFIG")


class Server:
    """A server in a folder of its own, with the environment that it was started in."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="warm_", dir="/tmp")  # a socket's path has 107 bytes
        self.address = f"{self.folder.name}/socket"
        self.environment = _that_counts()
        self.process = subprocess.Popen([sys.executable, __file__, self.address], stdin=subprocess.DEVNULL)

    def takes(self) -> bool:
        """Say whether a script that was started now would have the environment that the libraries have seen."""
        return _that_counts() == self.environment

    def run(self, arguments: list[str], cwd: Path, timeout: float) -> subprocess.CompletedProcess:
        """Run a script, or `-m` and a module, with its arguments; as subprocess.run with captured text."""
        request = {"arguments": arguments, "cwd": str(cwd), "environment": dict(os.environ)}
        with self._connected() as connection, contextlib.ExitStack() as stack:
            files = asked, out, err = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            asked.write(json.dumps(request).encode())
            asked.seek(0)
            socket.send_fds(connection, [b"-"], [file.fileno() for file in files])
            connection.settimeout(timeout)
            try:
                status = int(connection.recv(16))
            except TimeoutError as error:  # the connection ends with this block, and the script with it
                raise subprocess.TimeoutExpired(arguments, timeout) from error
            out.seek(0), err.seek(0)
            printed = [file.read().decode() for file in (out, err)]
        return subprocess.CompletedProcess(arguments, status, *printed)

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        while True:
            try:
                connection.connect(self.address)
                return connection
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.05)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def _that_counts() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OWN)}


def _serve(address: str) -> dict:
    """Fork for each request. Returns the request, in the process that is to run the script."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # as data.augmentation does before it
    for name in LIBRARIES:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    parent = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for a script
    while os.getppid() == parent:
        if not select.select([listener], [], [], 1)[0]:
            continue
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _script(connection)
        connection.close()
    sys.exit()


def _script(connection: socket.socket) -> dict:
    """Fork the process of the script, where this returns; the other one waits for its end, and tells the status."""
    _, (asked, *descriptors), _, _ = socket.recv_fds(connection, 1, 3)
    if (script := os.fork()) == 0:
        connection.close()
        for number, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        with os.fdopen(asked) as file:
            return json.load(file)
    ended = os.pidfd_open(script)
    told, _, _ = select.select([ended, connection], [], [])
    if ended not in told:  # whoever asked has gone
        os.kill(script, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(script, 0)[1])
    if ended in told:
        connection.sendall(str(status).encode())
    os._exit(0)


if __name__ == "__main__":
    request = _serve(sys.argv[1])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    importlib.import_module("numpy").random.seed()
    name, *arguments = request["arguments"]
    if name == "-m":
        sys.path[0] = os.getcwd()
        name, *sys.argv[1:] = arguments
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(name))
        sys.argv = [name, *arguments]
        runpy.run_path(name, run_name="__main__")
