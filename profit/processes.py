"""One training on several processes of a machine: their start and end, what they agree on and what they add up.

`launch` starts the processes and waits. Each runs the same command, and DDP or FSDP splits the work among them; the
first decides and writes. Nothing stays behind: when a process fails the others are killed, and all end with the one
that launched them, however that ends.

    python -m profit.processes MODULE FOLDER ARGUMENTS…     is how `launch` starts each of them
"""

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from profit.files import InputError
from profit.forkserver import WORKFLOW, end_with_workflow

HOST = "127.0.0.1"
# The first process gathers and writes models of many GB while the others wait; one that dies is noticed at once.
PATIENCE = timedelta(hours=3)
POLL_SECONDS = 0.1

Value = TypeVar("Value")


def launch(module: str, argv: Sequence[str], processes: int) -> None:
    """Run `module`.main(argv) in so many processes, one a GPU where there are GPUs, until all have ended.

    Raises:
        InputError: fewer GPUs are in reach, or what one of the processes raised; so for OSError.
        RuntimeError: a process ended in another way.
    """
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        found = f"found {processes}, expected at most {torch.cuda.device_count()}, the GPUs in reach"
        raise InputError(f"--compute: processes: {found}")
    # Clients of one store, which is here before them, need no free port to agree on.
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    package = str(Path(__file__).resolve().parent.parent)
    shared = {
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(store.port),
        WORKFLOW: str(os.getpid()),
    }
    with tempfile.TemporaryDirectory(prefix="profit-") as folder:
        command = [sys.executable, "-m", "profit.processes", module, folder, *argv]
        running: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(processes):
                running.append(subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
            statuses = _wait(running)
        finally:
            for process in running:
                process.kill()
                process.wait()
        for error in sorted(Path(folder).glob("*.error")):
            raise pickle.loads(error.read_bytes())
    if failed := [f"{status} of process {rank}" for rank, status in enumerate(statuses) if status]:
        raise RuntimeError(f"{module} on {processes} processes: found exit status {', '.join(failed)}, expected 0")


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Exit statuses once all have ended or one has failed; None of those that still run."""
    while True:
        statuses = [process.poll() for process in running]
        if any(statuses) or None not in statuses:
            return statuses
        time.sleep(POLL_SECONDS)


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the process that decides and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def sharded() -> bool:
    """Whether the weights are spread over the processes (FSDP); CPUs hold a copy each (DDP)."""
    return count() > 1 and torch.cuda.is_available()


def agree(decide: Callable[[], Value]) -> Value:
    """What `decide` returns in the first process, where alone it is called, in all of them."""
    found = [decide() if first() else None]
    if dist.is_initialized():
        dist.broadcast_object_list(found, device=torch.device("cpu"))
    return found[0]


def total(value: float) -> float:
    """The sum of a number over the processes."""
    found = torch.tensor(value, dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(found)
    return float(found)


def meet() -> None:
    """Wait until all processes are here."""
    total(0.0)


def main() -> None:
    """Join the others and run the command; an error that people can correct is left for the one that launched us."""
    module, folder, *argv = sys.argv[1:]
    end_with_workflow()
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # What is on the CPU is exchanged by gloo, beside GPUs too.
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    store = dist.TCPStore(HOST, int(os.environ["MASTER_PORT"]), is_master=False)
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=PATIENCE)
    try:
        importlib.import_module(module).main(argv)
    except (InputError, OSError) as error:
        # Whole at once: this process is killed as soon as another one has failed.
        written = Path(folder) / f"{rank}.part"
        written.write_bytes(pickle.dumps(error))
        written.rename(written.with_suffix(".error"))
        sys.exit(2)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
