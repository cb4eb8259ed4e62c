"""A Slurm of one node on the loopback interface, in a scratch folder of its own; both end with the `with` block.

Nothing of the machine's own configuration is read or changed: munged has its own key and socket, and SLURM_CONF names
the configuration. No cgroups and no accounting, so that it runs in a container, and as any user. The node may have
GPUs by name: Slurm counts them out, and no device is behind them.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
SETTINGS = """
ClusterName=profit
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MinJobAge=86400
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=20000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@contextmanager
def one_node(cpus: int, gpus: int) -> Iterator[dict[str, str]]:
    """Run a Slurm until the block ends; yield the variables with which its commands find it.

    Raises:
        RuntimeError: a program is missing, or the node is not idle after 30 seconds; with what the daemons said.
    """
    if missing := [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]:
        raise RuntimeError(f"found no {', '.join(missing)}; install them: apt-get install slurm-wlm munge")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="profit-slurm-")))
        environment = _write_configuration(folder, cpus, gpus)
        names = {"key": "munge.key", "pid": "munged.pid", "seed": "munge.seed", "log": "munged.log"}
        options = [f"--{option}-file={folder / name}" for option, name in names.items()]
        stack.enter_context(_daemon(folder, "munged", "--foreground", f"--socket={folder}/munge.socket", *options))
        _wait(lambda: (folder / "munge.socket").exists(), folder, "munged")
        stack.enter_context(_daemon(folder, "slurmctld", "-D", environment=environment))
        stack.enter_context(_daemon(folder, "slurmd", "-D", environment=environment))
        stack.callback(_cancel_all, environment)
        _wait(lambda: _command(environment, "sinfo", "--noheader", "--format=%T") == "idle", folder, "the node")
        yield environment


def _write_configuration(folder: Path, cpus: int, gpus: int) -> dict[str, str]:
    """Write what the daemons read; return the variables of their commands."""
    folder.chmod(0o711)  # munged asks for it
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    host = socket.gethostname().partition(".")[0]
    controller_port, node_port = _free_ports(2)
    settings = {"host": host, "user": getpass.getuser(), "folder": folder, "cpus": cpus, "gpus": gpus}
    (folder / "slurm.conf").write_text(
        SETTINGS.format(**settings, controller_port=controller_port, node_port=node_port)
    )
    devices = [folder / f"nvidia{number}" for number in range(gpus)]
    for device in devices:
        device.touch()
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
    # The executor plugin clears SLURM_CONF before it calls srun within a job.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    return {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": os.pathsep.join([str(folder / "bin"), _search_path()])}


@contextmanager
def _daemon(folder: Path, *command: str, environment: dict[str, str] | None = None) -> Iterator[None]:
    """Run a daemon in the foreground, output to a file; it ends with the block, or by the kernel with this process."""
    path = shutil.which(command[0], path=_search_path())
    with (folder / f"{command[0]}.out").open("w") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", path, *command[1:]],
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cancel_all(environment: dict[str, str]) -> None:
    """Cancel what still runs, and give it time to end while slurmd is there to see it."""
    subprocess.run(["scancel", "--user", getpass.getuser()], env=os.environ | environment, check=False)
    limit = time.monotonic() + 15
    while _command(environment, "squeue", "--noheader") and time.monotonic() < limit:
        time.sleep(0.2)


def _command(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True).stdout.strip()


def _wait(condition, folder: Path, what: str) -> None:
    limit = time.monotonic() + 30
    while not condition():
        if time.monotonic() > limit:
            logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(folder.glob("*.out")))
            raise RuntimeError(f"{what} is not ready after 30 seconds\n{logs}")
        time.sleep(0.1)


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports
