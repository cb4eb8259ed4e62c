"""Which GPUs a job gets: Snakemake only counts them, so on a machine with several every job leases its own.

A lease is an advisory lock on one file a GPU, named by its UUID, in one folder for all workflows of the machine. The
kernel ends it with the process, however that ends. Jobs take turns at choosing, so that one that asks for several is
not overtaken for ever, and no two wait for each other's GPUs.

No command: `asks_for_gpus` is used by the Snakefile, `lease` where a job starts (profit.forkserver). A rule says how
many GPUs its job asks for in PROFIT_GPUS.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from profit.files import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"
CLUSTER = "PROFIT_CLUSTER_GPUS"
FOLDER = Path("/tmp/profit-gpu-leases")
POLL_SECONDS = 0.5


def gpu_in_reach() -> bool:
    """Whether jobs on this machine will find a CUDA GPU, as far as can be told without loading torch."""
    return shutil.which("nvidia-smi") is not None and os.environ.get(VISIBLE) != ""


def asks_for_gpus(workflow: Any) -> bool:
    """Whether the jobs of a Snakemake ask for GPUs; sets its limit to one at once where no --resources gpu=N is given.

    A login node cannot see the GPUs of its cluster: there, the limit says. The Snakemake within a job of the cluster
    goes by what was asked for, and has no limit of its own.
    """
    if workflow.is_main_process:
        limit = workflow.global_resources.setdefault("gpu", 1).value
        on_cluster = workflow.resource_settings.nodes is not None
        os.environ[CLUSTER] = str(int(limit > 0 if on_cluster else gpu_in_reach()))
    return os.environ.get(CLUSTER) == "1"


def lease(count: int, folder: Path = FOLDER) -> list[str]:
    """Take `count` GPUs for the rest of this process and hide the others from CUDA; wait until they are free.

    Chooses among those that CUDA_VISIBLE_DEVICES names, where it is set, and returns the new value's names. Nothing is
    taken without a GPU, or where Slurm has given this job as many as it asks for.

    Raises:
        InputError: fewer GPUs are in reach than asked for.
    """
    devices = in_reach(list_gpus(), os.environ.get(VISIBLE))
    if not devices or ("SLURM_JOB_ID" in os.environ and len(devices) <= count):
        return []
    if len(devices) < count:
        raise InputError(
            f"found {len(devices)} GPUs ({', '.join(devices)}), expected the {count} that the job asks for"
        )
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)
    waiting = f"Waiting for {count} of the GPUs {', '.join(devices)}: other jobs hold them"
    turn = _open(folder / "turn")
    if not _lock(turn):
        print(waiting, file=sys.stderr, flush=True)
        fcntl.flock(turn, fcntl.LOCK_EX)
        waiting = ""
    files = {name: _open(folder / uuid) for name, uuid in devices.items()}
    held: set[str] = set()
    while True:
        for name, file in files.items():
            if len(held) < count and name not in held and _lock(file):
                held.add(name)
        if len(held) == count:
            break
        if waiting:
            print(waiting, file=sys.stderr, flush=True)
            waiting = ""
        time.sleep(POLL_SECONDS)
    for name in files.keys() - held:
        os.close(files[name])
    os.close(turn)
    chosen = [name for name in devices if name in held]
    # Numbers mean what nvidia-smi means by them.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ[VISIBLE] = ",".join(chosen)
    print(f"GPU {os.environ[VISIBLE]} is leased", file=sys.stderr, flush=True)
    return chosen


def list_gpus() -> list[str]:
    """UUIDs of this machine's GPUs in the order of nvidia-smi; none without it or its driver."""
    return re.findall(r"^GPU \d+: .*\(UUID: ([^)]+)\)", _listed(), flags=re.MULTILINE)


def gpu_name() -> str:
    """What nvidia-smi calls the first GPU of this machine; nothing without one."""
    found = re.search(r"^GPU \d+: (.*) \(UUID: ", _listed(), flags=re.MULTILINE)
    return found[1] if found else ""


def _listed() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout


def in_reach(uuids: list[str], mask: str | None) -> dict[str, str]:
    """Name -> UUID of the GPUs that a value of CUDA_VISIBLE_DEVICES shows, None for all; names are those of the mask.

    As for CUDA, a name is a number or the beginning of a UUID, and what follows an unknown name is hidden too.
    """
    found: dict[str, str] = {}
    for name in map(str.strip, mask.split(",")) if mask is not None else map(str, range(len(uuids))):
        if name.startswith("MIG-"):
            matches = [name]
        elif name.isdigit():
            matches = uuids[int(name) :][:1]
        else:
            matches = [uuid for uuid in uuids if name and uuid.startswith(name)]
        if len(matches) != 1 or matches[0] in found.values():
            break
        found[name] = matches[0]
    return found


def _open(path: Path) -> int:
    """A descriptor of a lock file that any user may have made; it closes with the process."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT)
        os.fchmod(file, 0o666)
    # Machines clear their temporary folder of what is old.
    os.utime(path)
    return file


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
