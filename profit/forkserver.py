"""Jobs as forks of one process that has the heavy packages loaded, so that a job pays milliseconds for its imports.

Snakemake's `onstart` starts the server (`start`). It loads third-party packages only: nothing of this package, whose
code a job must read afresh, no tensor operation and no CUDA, which do not survive a fork. A job's client
(profit.__main__) hands over command line, folder, environment, stdout and stderr through a Unix socket and waits for
the exit status.

Nothing outlives Snakemake: the server dies with it, forks die with the server, and a fork dies with its client. The
name of the socket travels in an environment variable; without a server behind it, a job runs in its client.
"""

import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from profit.__main__ import CLIENT_SECONDS, SOCKET

WORKFLOW = "PROFIT_WORKFLOW_PID"
GPUS = "PROFIT_GPUS"

PRELOADED = (
    "torch",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.data.data_collator",
    "transformers.generation.utils",
    "peft",
    "datasets",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "matplotlib.pyplot",
    "pydantic.fields",
    "pydantic.json_schema",
    "pydantic.main",
    "pydantic.types",
)


@dataclass(frozen=True)
class Forked:
    """A running job: the connection to its client and what the client asked for."""

    client: socket.socket
    request: dict


def prepare_environment(repository: str | Path) -> None:
    """Let every job of this Snakemake find this Python and this package, activated or not, and know whom to follow."""
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(repository), os.environ.get("PYTHONPATH")]))
    os.environ[WORKFLOW] = str(os.getpid())
    # On busy cores, threads that spin for long while they wait take the time from those that work (20 times slower was
    # seen); those that sleep at once wake late (a pretraining takes 1.4 times as long). So they spin, not for long.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def start() -> Path:
    """Start a server that lives as long as this process and tell later jobs of it; return its account (JSON lines)."""
    folder = Path(tempfile.mkdtemp(prefix="profit-"))
    # One thread here: a fork inherits no threads, and each job sets its own number.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "profit.forkserver", str(folder), str(os.getpid())],
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    while not (folder / "socket").exists() and server.poll() is None:
        time.sleep(0.01)
    os.environ[SOCKET] = str(folder / "socket")
    return folder / "account.jsonl"


def run_rule(rule: str, argv: list[str]) -> int:
    """Run `profit.<rule>.main(argv)` in this process, with as many GPUs as its rule asks for; return the exit status.

    What a person can correct (an InputError, a full disk, a missing permission) ends as its message alone.
    """
    from profit.files import InputError

    # Taken out, so that what the job itself starts shares its GPUs.
    gpus = int(os.environ.pop(GPUS, 0))
    try:
        if gpus:
            importlib.import_module("profit.lease").lease(gpus)
        importlib.import_module(f"profit.{rule}").main(argv)
    except (InputError, OSError) as error:
        correctable = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
        if isinstance(error, OSError) and error.errno not in correctable:
            raise
        print(f"{rule}: {error}", file=sys.stderr)
        return 2
    return 0


def end_with_workflow() -> None:
    """Let this process be killed as soon as the Snakemake that started it is gone."""
    workflow = int(os.environ.get(WORKFLOW, 0))
    if workflow:
        threading.Thread(target=_kill_after, args=(workflow,), daemon=True).start()


def _kill_after(process: int) -> None:
    while _alive(process):
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def serve(folder: Path, parent: int) -> None:
    """Load the packages, then fork a job for every client until `parent` is gone."""
    signal.signal(signal.SIGTERM, _stop)
    _die_with_parent(parent, signal.SIGTERM)
    # Ctrl-C reaches the whole terminal group: the jobs stop by it, the server when Snakemake does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _serve(folder, parent)
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # The packages' own farewells would only take time.
        os._exit(0)


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _serve(folder: Path, parent: int) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "unheard"))
    # Clients may connect at once; they wait until all is loaded.
    listener.listen(64)
    (folder / "unheard").rename(folder / "socket")
    _preload()
    loaded = time.process_time()
    _account(folder, {"rule": "server", "cpu_seconds": loaded, "cpu_seconds_imports": loaded})
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno())
    watched = selectors.DefaultSelector()
    watched.register(listener, selectors.EVENT_READ)
    watched.register(wake, selectors.EVENT_READ)
    jobs: dict[int, Forked] = {}
    try:
        while os.getppid() == parent:
            for key, _ in watched.select(timeout=1.0):
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    request, descriptors = _read_request(client)
                    if request is None:
                        client.close()
                        continue
                    inherited = [listener, wake, woken, watched, client, *(job.client for job in jobs.values())]
                    jobs[_fork(request, descriptors, folder, inherited)] = Forked(client, request)
                    watched.register(client, selectors.EVENT_READ)
                    for descriptor in descriptors:
                        os.close(descriptor)
                elif key.fileobj is wake:
                    with contextlib.suppress(BlockingIOError):
                        wake.recv(4096)
                else:
                    # A client says nothing after its request: it is readable because it is gone.
                    gone = next(process for process, job in jobs.items() if job.client is key.fileobj)
                    os.kill(gone, signal.SIGKILL)
                    watched.unregister(key.fileobj)
            _answer_finished(jobs, folder, watched)
    finally:
        signal.set_wakeup_fd(-1)
        for process in jobs:
            os.kill(process, signal.SIGKILL)


def _answer_finished(jobs: dict[int, Forked], folder: Path, watched: selectors.BaseSelector) -> None:
    """Send the status of every job that has ended to its client and write down what it cost."""
    while jobs:
        process, status, usage = os.wait4(-1, os.WNOHANG)
        if process == 0:
            return
        job = jobs.pop(process)
        code = os.waitstatus_to_exitcode(status)
        imports = folder / f"imports.{process}"
        client = float(job.request["environment"][CLIENT_SECONDS])
        seconds = usage.ru_utime + usage.ru_stime + client
        loaded = float(imports.read_text()) + client if imports.exists() else seconds
        imports.unlink(missing_ok=True)
        _account(folder, {"rule": job.request["rule"], "cpu_seconds": seconds, "cpu_seconds_imports": loaded})
        with contextlib.suppress(OSError):
            job.client.sendall((code if code >= 0 else 128 - code).to_bytes(4))
        with contextlib.suppress(KeyError):
            watched.unregister(job.client)
        job.client.close()


def _account(folder: Path, entry: dict) -> None:
    with (folder / "account.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def _read_request(client: socket.socket) -> tuple[dict | None, list[int]]:
    """What a client asks for and its stdout and stderr; None for a client that broke off."""
    size, descriptors, _, _ = socket.recv_fds(client, 4, 2)
    request = _receive(client, int.from_bytes(size)) if len(size) == 4 else b""
    return json.loads(request) if request else None, descriptors


def _fork(request: dict, descriptors: list[int], folder: Path, inherited: list) -> int:
    """Run a request in a fork; returns its process id, in the server only."""
    server = os.getpid()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for name in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _die_with_parent(server, signal.SIGKILL)
        for item in inherited:
            item.close()
        status = _run_job(request, descriptors, folder)
    finally:
        os._exit(status)


def _run_job(request: dict, descriptors: list[int], folder: Path) -> int:
    """The life of a fork: take over the client's folder, environment and output, run, return the exit status."""
    for target, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, target)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [f"profit {request['rule']}", *request["argv"]]
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    try:
        importlib.import_module(f"profit.{request['rule']}")
        (folder / f"imports.{os.getpid()}").write_text(str(time.process_time()))
        status = run_rule(request["rule"], request["argv"])
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _preload() -> None:
    """Import what jobs need; a package that fails is left to the job."""
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"fork server: {name} not loaded ahead: {error}", file=sys.stderr)
    # A table of a thousand patterns that transformers makes when it first loads weights.
    with contextlib.suppress(Exception):
        importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")
    # What is loaded stays; a collection in a fork would only copy its pages.
    gc.collect()
    gc.freeze()


def _die_with_parent(parent: int, signal_number: int) -> None:
    """Ask Linux for a signal when the parent dies; elsewhere the server looks once a second."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal_number)
    if os.getppid() != parent:
        os._exit(1)


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            return b""
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
