"""Jobs run in forks of the server as they would by themselves, and nothing survives."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent

JOB = """
import errno, os, sys, time, signal
from profit.files import InputError

def main(argv):
    kind, *rest = argv
    print("out", *rest)
    print("err", *rest, file=sys.stderr)
    if kind == "tell":
        with open(rest[0], "w") as file:
            told = os.getcwd(), os.environ.get("COLOUR"), os.getppid(), sys.argv, "heavy" in sys.modules
            print(*told, sep="|", file=file)
    if kind == "exit":
        sys.exit(int(rest[0]))
    if kind == "message":
        sys.exit("a message")
    if kind == "raise":
        raise ValueError("went wrong")
    if kind == "input":
        raise InputError("file: found a, expected b")
    if kind == "system":
        number = getattr(errno, rest[0])
        raise OSError(number, "table.csv: not written: " + os.strerror(number))
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "gpus":
        print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("PROFIT_GPUS"))
    if kind == "sleep":
        open(rest[0], "w").write(str(os.getpid()))
        time.sleep(60)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package's process code with a toy rule `toy`; the server preloads one small module."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "profit").mkdir()
    for name in ("__init__.py", "__main__.py", "forkserver.py", "files.py"):
        (folder / "profit" / name).write_text((ROOT / "profit" / name).read_text())
    lease = (ROOT / "profit" / "lease.py").read_text()
    (folder / "profit" / "lease.py").write_text(lease.replace("/tmp/profit-gpu-leases", str(folder / "leases")))
    server = folder / "profit" / "forkserver.py"
    text = server.read_text()
    start = text.index("PRELOADED = (")
    server.write_text(text[:start] + 'PRELOADED = ("heavy", "absent_module")' + text[text.index(")\n", start) + 1 :])
    (folder / "heavy.py").write_text("LOADED = True\n")
    (folder / "profit" / "toy.py").write_text(JOB)
    return folder


@pytest.fixture
def environment(package, tmp_path):
    found = {key: value for key, value in os.environ.items() if not key.startswith("PROFIT_")}
    return {**found, "PYTHONPATH": str(package), "TMPDIR": str(tmp_path)}


@pytest.fixture
def server(environment, tmp_path):
    """A process that stands for Snakemake: it starts the server and says where its socket is."""
    code = (
        "import os, time\nfrom profit import forkserver\n"
        f"forkserver.prepare_environment({environment['PYTHONPATH']!r})\n"
        "account = forkserver.start()\nwhile not account.is_file(): time.sleep(0.02)\n"
        "print(os.environ['PROFIT_FORK_SERVER'], account, flush=True)\ntime.sleep(120)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    socket, account = parent.stdout.readline().split()
    children = psutil.Process(parent.pid).children()
    assert len(children) == 1
    parent.server = children[0]
    parent.account = Path(account)
    environment["PROFIT_FORK_SERVER"] = socket
    environment["PROFIT_WORKFLOW_PID"] = str(parent.pid)
    yield parent
    parent.kill()
    parent.wait()


def client(environment, *argv, **options):
    command = [sys.executable, "-m", "profit", "toy", *map(str, argv)]
    options = {"cwd": environment["PYTHONPATH"], **options}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, **options)


def started(environment, path, *argv):
    """A client in the background, and the process id of its job."""
    command = [sys.executable, "-m", "profit", "toy", "sleep", str(path), *argv]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, cwd=environment["PYTHONPATH"], **silent)
    wait_for(lambda: path.is_file() and path.read_text())
    return process, int(path.read_text())


def wait_for(condition, seconds=10.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def gone(process):
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("argv", "status", "in_stderr"),
    [
        (["plain", "a", "b c"], 0, "err a b c\n"),
        (["exit", "3"], 3, ""),
        (["message"], 1, "a message"),
        (["raise"], 1, "ValueError: went wrong"),
        (["input"], 2, "toy: file: found a, expected b\n"),
        (["system", "ENOSPC"], 2, "table.csv: not written: No space left on device\n"),
        (["system", "EROFS"], 2, "table.csv: not written: Read-only file system\n"),
        (["system", "EIO"], 1, "OSError: [Errno 5] table.csv"),
    ],
)
def test_a_fork_ends_as_the_plain_job_does(server, environment, argv, status, in_stderr):
    plain = {key: value for key, value in environment.items() if not key.startswith("PROFIT_")}
    forked, alone = client(environment, *argv), client(plain, *argv)
    assert forked.returncode == alone.returncode == status
    assert forked.stdout == alone.stdout and forked.stdout.startswith("out")
    assert in_stderr in forked.stderr and in_stderr in alone.stderr
    assert ("Traceback" in forked.stderr) == (status == 1 and argv[0] != "message")


def test_a_job_gets_folder_environment_and_preloaded_modules(server, environment, tmp_path):
    (tmp_path / "work").mkdir()
    answer = client({**environment, "COLOUR": "blue"}, "tell", "answer", cwd=tmp_path / "work")
    assert answer.returncode == 0
    folder, colour, parent, argv, heavy = (tmp_path / "work" / "answer").read_text().strip().split("|")
    assert Path(folder) == tmp_path / "work" and colour == "blue" and int(parent) == server.server.pid
    assert argv == "['profit toy', 'tell', 'answer']" and heavy == "True"


def test_a_job_sees_the_gpus_it_asks_for_and_no_others(server, environment, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: GPU-a)'\necho 'GPU 1: H200 (UUID: GPU-b)'\n")
    tool.chmod(0o755)
    environment |= {"PATH": f"{tmp_path}:{environment['PATH']}"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    plain = {key: value for key, value in environment.items() if key != "PROFIT_FORK_SERVER"}
    for variables in (environment, plain):
        asked = client({**variables, "PROFIT_GPUS": "1"}, "gpus")
        assert asked.stdout.splitlines()[1] == "0 None" and "GPU 0 is leased" in asked.stderr
        assert client({**variables, "PROFIT_GPUS": "0"}, "gpus").stdout.splitlines()[1] == "None None"
        assert client(variables, "gpus").stdout.splitlines()[1] == "None None"
        assert "found 2 GPUs (0, 1), expected the 3" in client({**variables, "PROFIT_GPUS": "3"}, "gpus").stderr


def test_a_killed_job_is_128_plus_signal(server, environment):
    assert client(environment, "kill").returncode == 128 + signal.SIGKILL
    assert client(environment, "plain").returncode == 0


def test_jobs_run_at_once_and_are_accounted_for(server, environment, tmp_path):
    jobs = [started(environment, tmp_path / f"job{number}") for number in range(3)]
    assert len({pid for _, pid in jobs}) == 3
    for process, pid in jobs:
        os.kill(pid, signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
    entries = [json.loads(line) for line in server.account.read_text().splitlines()]
    assert [entry["rule"] for entry in entries] == ["server", "toy", "toy", "toy"]
    assert all(entry["cpu_seconds"] >= entry["cpu_seconds_imports"] > 0 for entry in entries)


def test_a_job_dies_with_its_client(server, environment, tmp_path):
    process, pid = started(environment, tmp_path / "job")
    process.kill()
    wait_for(lambda: gone(pid))
    assert client(environment, "plain").returncode == 0


def test_nothing_survives_a_killed_workflow(server, environment, tmp_path):
    process, pid = started(environment, tmp_path / "job")
    folder = Path(environment["PROFIT_FORK_SERVER"]).parent
    server.kill()
    server.wait()
    wait_for(lambda: gone(pid) and gone(server.server.pid))
    assert process.wait(10) != 0
    wait_for(lambda: not folder.exists())


def test_jobs_die_with_a_killed_server(server, environment, tmp_path):
    process, pid = started(environment, tmp_path / "job")
    server.server.kill()
    wait_for(lambda: gone(pid))
    assert process.wait(10) == 1


def test_without_a_server_the_job_runs_in_its_client_and_dies_with_the_workflow(environment, tmp_path):
    workflow = subprocess.Popen(["sleep", "60"])
    environment |= {"PROFIT_FORK_SERVER": str(tmp_path / "nothing"), "PROFIT_WORKFLOW_PID": str(workflow.pid)}
    process, pid = started(environment, tmp_path / "job")
    assert pid == process.pid
    workflow.kill()
    workflow.wait()
    assert process.wait(10) == -signal.SIGKILL


def test_the_client_starts_fast_and_light(environment):
    code = "import sys, profit.__main__; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "numpy", "pandas", "pydantic", "yaml", "argparse", "subprocess", "ctypes"} & set(modules)
    assert len(modules) < 150


def test_the_server_loads_no_code_of_ours_and_no_cuda():
    """With the real packages: what a job of ours imports is fresh, and torch has not touched a GPU."""
    code = textwrap.dedent("""
        import sys, threading
        from profit import forkserver
        forkserver._preload()
        print(*(name for name in sys.modules if name.startswith("profit")))
        print(sys.modules["torch"].cuda.is_initialized(), threading.active_count())
        print(*(name for name in forkserver.PRELOADED if name not in sys.modules))
    """)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    ours, state, absent = done.stdout.splitlines()
    assert set(ours.split()) == {"profit", "profit.forkserver", "profit.__main__"}
    assert state == "False 1" and absent == ""
