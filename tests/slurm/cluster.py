"""A throw-away SLURM cluster on this machine: one controller, nodes cpu1 and cpu2, and gpu1 with a fake GPU.

Real slurmctld, slurmd and munged, started as processes of this module and stopped by their pids; no systemd, no
cgroups, and accounting only where a test asks for it (`accounting.py`). By hand:
``python tests/slurm/cluster.py start|stop|crash NODE``.

It needs root, mknod, and the packages of `PACKAGES` (Debian builds slurmd so that several may run on one machine).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BASE = Path("/var/lib/histoloom-slurm")
ETC = Path("/etc/slurm")  # the jobstep executor strips SLURM_CONF, so the configuration must lie where SLURM looks
MARK = "# written by histoloom's tests"
PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo", "munged", "munge")
NODES = ("cpu1", "cpu2", "gpu1")
CPUS, MEMORY_MB = 4, 64000
ACCOUNT = "lab"

SLURM_CONF = """{mark}
ClusterName=histoloom
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd-%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd-%n.log
SlurmctldPort=16817
# no cgroups; memory is watched by polling
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PriorityType=priority/basic
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=30
InactiveLimit=0
KillWait=3
# finished jobs stay visible in squeue, which is how the profile asks for their end
MinJobAge=300
OverTimeLimit=0
CompleteWait=0
JobRequeue=1
EnforcePartLimits=ALL
GresTypes=gpu
# the declared sizes win over the real ones
SlurmdParameters=config_overrides
{accounting}
JobCompType=jobcomp/filetxt
JobCompLoc={base}/log/jobs.txt
NodeName=cpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs={cpus} RealMemory={memory} State=UNKNOWN
NodeName=cpu2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs={cpus} RealMemory={memory} State=UNKNOWN
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17003 CPUs={cpus} RealMemory={memory} Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes=cpu1,cpu2 Default=YES DefaultTime=10 MaxTime=1440 State=UP DefMemPerCPU=500
PartitionName=gpu Nodes=gpu1 Default=NO DefaultTime=10 MaxTime=1440 State=UP DefMemPerCPU=500
"""
NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
# A GPU needs a character device: a count alone makes the node invalid, a plain file leaves CUDA_VISIBLE_DEVICES empty.
GRES_CONF = "{mark}\nAutoDetect=off\nNodeName=gpu1 Name=gpu File={base}/fakegpu0\n"
FILES = {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF, "cgroup.conf": "{mark}\nCgroupAutomount=no\n"}


def why_not() -> str | None:
    """Return why no cluster can be started here, or None if one can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"no {', '.join(missing)}: apt-get install --no-install-recommends {PACKAGES}"
    if os.geteuid() != 0:
        return "a SLURM cluster of its own needs root"
    for name in FILES:
        if (ETC / name).exists() and MARK not in (ETC / name).read_text():
            return f"{ETC / name} belongs to another SLURM"
    return None


def wait_for(what: str, done: Callable[[], bool], seconds: float = 40) -> None:
    """Wait until something holds.

    Raises
    ------
    TimeoutError
        If it does not within the time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if done():
            return
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s (logs in {BASE / 'log'})")


def ask(*command: str) -> str:
    """Run a SLURM command and return what it prints; empty when it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def alive(pid: int) -> bool:
    """Whether a process runs: one that ended and was not yet waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def running_pid(name: str, program: str) -> int | None:
    """Return the pid in a pid file, if that process runs and is that program."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((BASE / "run" / f"{name}.pid").read_text())
        name_and_state = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        if name_and_state[0] == program and name_and_state[2].split()[0] != "Z":
            return pid
    return None


def start_daemon(name: str, *command: str) -> None:
    """Start a daemon that writes its own pid file, unless it runs."""
    if running_pid(name, Path(command[0]).name) is None:
        with (BASE / "log" / f"{name}.out").open("ab") as out:
            subprocess.run(
                [shutil.which(command[0]) or command[0], *command[1:]],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True, start_new_session=True,
            )  # fmt: skip


def stop_daemon(name: str, program: str, sig: signal.Signals = signal.SIGTERM) -> None:
    """End a daemon by the pid in its pid file, and wait until it is gone."""
    pid = running_pid(name, program)
    if pid is None:
        return
    os.kill(pid, sig)
    try:
        wait_for(f"end of {name}", lambda: running_pid(name, program) is None, 15)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
    (BASE / "run" / f"{name}.pid").unlink(missing_ok=True)


def write_files(accounting: str = NO_ACCOUNTING) -> None:
    """Write the configuration, a munge key, and the device that stands for a GPU."""
    for folder in ("run", "log", "state", "munge", *(f"spool/{node}" for node in NODES)):
        (BASE / folder).mkdir(parents=True, exist_ok=True)
    for folder in (BASE, BASE / "munge", BASE / "run", BASE / "log"):
        folder.chmod(0o755)
    ETC.mkdir(exist_ok=True)
    host = socket.gethostname().partition(".")[0]
    for name, text in FILES.items():
        filled = text.format(mark=MARK, base=BASE, host=host, cpus=CPUS, memory=MEMORY_MB, accounting=accounting)
        (ETC / name).write_text(filled)
    key = BASE / "munge" / "key"
    if not key.exists():
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
    if not (BASE / "fakegpu0").exists():
        os.mknod(BASE / "fakegpu0", 0o020666, os.makedev(1, 3))  # c 1 3 is the null device


def start(accounting: str = NO_ACCOUNTING, before: Callable[[], None] | None = None) -> None:
    """Bring the cluster up; what runs already is left alone. ``before`` is called before the controller starts."""
    write_files(accounting)
    munge = BASE / "munge"
    if not ask("munge", f"--socket={munge / 'socket'}", "-n"):
        start_daemon(
            "munged", "munged", "--force", f"--socket={munge / 'socket'}", f"--key-file={munge / 'key'}",
            f"--pid-file={BASE / 'run' / 'munged.pid'}", f"--log-file={BASE / 'log' / 'munged.log'}",
            f"--seed-file={munge / 'seed'}",
        )  # fmt: skip
    wait_for("munged", lambda: bool(ask("munge", f"--socket={munge / 'socket'}", "-n")), 10)
    if before:
        before()
    start_controller()
    for node in NODES:
        start_node(node)
    wait_for("three nodes", lambda: all(state(node) in {"IDLE", "MIXED", "ALLOCATED"} for node in NODES))


def start_controller() -> None:
    """Start slurmctld and wait until it answers."""
    start_daemon("slurmctld", "slurmctld")
    wait_for("slurmctld", lambda: "is UP" in ask("scontrol", "ping"))


def stop_controller(sig: signal.Signals = signal.SIGTERM) -> None:
    """Stop slurmctld; jobs go on without it."""
    stop_daemon("slurmctld", "slurmctld", sig)


def start_node(node: str) -> None:
    """Start a node's daemon and put the node back to work."""
    start_daemon(f"slurmd-{node}", "slurmd", "-N", node)
    if any(word in state(node) for word in ("DOWN", "DRAIN")):
        ask("scontrol", "update", f"nodename={node}", "state=resume")


def state(node: str) -> str:
    """Return a node's state, as scontrol shows it."""
    words = ask("scontrol", "-o", "show", "node", node).split()
    return next((w.removeprefix("State=") for w in words if w.startswith("State=")), "")


def environment(pid: int) -> dict[str, str]:
    """Return a process's environment; empty where it cannot be read."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
    return {}


def job_processes(node: str) -> Iterator[int]:
    """Yield the processes of jobs on a node: step daemons, and what they started."""
    jobs = set(ask("squeue", "-h", "-w", node, "-o", "%A").split())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
            if words.startswith("slurmstepd: [") and words[13:].split(".")[0].split("]")[0] in jobs:
                yield int(entry.name)
                continue
        found = environment(int(entry.name))
        if found.get("SLURM_JOB_ID") in jobs and found.get("SLURMD_NODENAME", node) == node:
            yield int(entry.name)


def crash_node(node: str) -> None:
    """Let a node die as in a power cut: kill -9 of its daemon and of every process of its jobs."""
    victims = list(job_processes(node))
    stop_daemon(f"slurmd-{node}", "slurmd", signal.SIGKILL)
    for pid in {*victims, *job_processes(node)} - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop(*, purge: bool = False) -> None:
    """Cancel all jobs and stop every daemon of this cluster; with ``purge`` also remove its files."""
    if "is UP" in ask("scontrol", "ping"):
        for job in ask("squeue", "-h", "-o", "%A").split():
            ask("scancel", job)
        with contextlib.suppress(TimeoutError):
            wait_for("an empty queue", lambda: not ask("squeue", "-h"), 20)
    for node in NODES:
        stop_daemon(f"slurmd-{node}", "slurmd")
    stop_daemon("slurmctld", "slurmctld")
    for name in ("slurmdbd", "mariadbd"):
        stop_daemon(name, name)
    stop_daemon("munged", "munged")
    if purge:
        for name in (*FILES, "slurmdbd.conf"):
            if (ETC / name).exists() and MARK in (ETC / name).read_text():
                (ETC / name).unlink()
        shutil.rmtree(BASE, ignore_errors=True)


@contextlib.contextmanager
def cluster(accounting: str = NO_ACCOUNTING, before: Callable[[], None] | None = None) -> Iterator[None]:
    """Lend a fresh cluster to one user at a time; arguments as in `start`."""
    with Path("/tmp/histoloom-slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stop(purge=True)
        try:
            start(accounting, before)
            yield
        finally:
            stop(purge=os.environ.get("HISTOLOOM_KEEP_SLURM") is None)


if __name__ == "__main__":
    reason = why_not()
    if reason:
        sys.exit(reason)
    {"start": start, "stop": lambda: stop(purge=True), "crash": lambda: crash_node(sys.argv[2])}[sys.argv[1]]()
