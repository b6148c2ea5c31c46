"""A real SLURM of four nodes on this machine: munged, slurmctld and four slurmds, all of a temporary folder."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from conftest import ROOT

# Two nodes for jobs that nobody preempts, two where an urgent job takes the place of another. Node names are addresses
# that resolve on every machine, so that torchrun finds its rendezvous by what scontrol says. cred_expire is how long a
# job that is queued again has to wait, in seconds; below 5 SLURM takes its default of 120.
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
MinJobAge=3600
SchedulerParameters=sched_interval=5,bf_interval=5,bf_resolution=5
{nodes}
PartitionName=steady Nodes=127.0.0.[1-2] Default=YES PreemptMode=OFF
PartitionName=spot Nodes=127.0.0.[3-4] PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=grace Nodes=127.0.0.[3-4] PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=127.0.0.[3-4] PriorityTier=9 PreemptMode=OFF
"""
NODES = [f"127.0.0.{k}" for k in range(1, 5)]
GRACE = 20  # seconds between SIGTERM and SIGKILL of a preempted job
CPUS = 32  # of a node, as the sbatch files ask for, so that a job fills a node; the machine has fewer


class Cluster:
    """A cluster that `with` starts; everything that it started has ended when the block ends."""

    def __enter__(self) -> "Cluster":
        self.folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: the daemons' sockets have paths of 108 characters
        (self.folder / "state").mkdir()
        ports = _free_ports(1 + len(NODES))
        nodes = [f"NodeName={n} Port={p} CPUs={CPUS}" for n, p in zip(NODES, ports[1:], strict=True)]
        conf = self.folder / "slurm.conf"
        conf.write_text(
            _CONF.format(
                host=socket.gethostname().split(".")[0], port=ports[0], folder=self.folder, nodes="\n".join(nodes),
                grace=GRACE,
            )
        )  # fmt: skip
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "PYTEST_"))},
            "SLURM_CONF": str(conf), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "PROCESSES": "2",
        }  # fmt: skip
        self.daemons = []
        try:
            files = [f"--{k}={self.folder}/munge.{e}" for k, e in _MUNGE_FILES.items()]
            self._start("munged", "--foreground", "--force", *files)
            _wait(lambda: (self.folder / "munge.socket").exists(), 20, "munged")
            self._start("slurmctld", "-D", "-c")
            for node in NODES:
                self._start("slurmd", "-D", "-N", node)
            _wait(lambda: set(self._idle()) == set(NODES), 60, "the nodes")
        except BaseException:
            self.__exit__(None)
            raise
        return self

    def _start(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("a") as log:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def _idle(self) -> list[str]:
        return self.run("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N", check=False).split()

    def run(self, *command: object, check: bool = True, **environment: str) -> str:
        """Return the output of a SLURM command or a launcher, started in the repository."""
        result = subprocess.run(
            [str(word) for word in command], cwd=ROOT, env={**self.environment, **environment}, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert not check or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def show(self, job: str) -> dict[str, str]:
        """Return the facts of `scontrol show job`, of one task where `job` is that of an array (12_0)."""
        return self.tasks(job)[0]

    def tasks(self, array: str) -> list[dict[str, str]]:
        """Return the same of all tasks of an array; those that have not started yet share one entry."""
        lines = self.run("scontrol", "--oneliner", "show", "job", array).splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]

    def log(self) -> str:
        """Return the controller's log so far."""
        return (self.folder / "slurmctld.log").read_text(errors="replace")

    def __exit__(self, *_) -> None:
        self.run("scancel", "--full", "--signal=KILL", "--user", "root", check=False)
        self.run("scancel", "--user", "root", check=False)
        _wait(lambda: not self.run("squeue", "-h", check=False), 45, None)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


_MUNGE_FILES = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _wait(done, seconds: float, what: str | None) -> None:
    """Wait until `done()`. AssertionError names `what` did not come; nothing is said where that is None."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            assert what is None, f"{what} did not come up within {seconds} s"
            return
        time.sleep(0.3)
