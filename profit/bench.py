"""Benchmark of the fused LM head (profit.head): time, memory and accuracy beside other ways to the same losses.

One step is loss, forward and backward, from hidden states (n, d) and an LM-head weight (V, d), fp32 on a CPU and bf16
on a GPU. Targets are drawn at random and hidden states lean towards their target's row of the weight by more or less,
so that probabilities spread over (0, 1); tau lies between two of them, so that ProFit keeps a stated share of tokens.

Time: all candidates of a row in turn within each round; a ratio is the median over rounds of the ratio within a round.
Memory: the peak above weight, hidden states and their gradients, each counted once, in a process of its own.
Error: relative, |x - y| / |y| in the Frobenius norm, against full logits in float64.

    python -m profit.bench [--output results/bench/head.json]

Scenes: `plain`; `accumulation 2`, a step in two calls; `tied`, hidden states made of rows of the same weight.
"""

import argparse
import gc
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from profit.bench_heads import (
    CANDIDATES,
    PACKAGES,
    ROWS,
    Setup,
    Step,
    candidates,
    full_logits,
    installed,
    make_inputs,
    objectives,
)
from profit.files import InputError, write_json

Record = dict[str, Any]

SCENES = ("plain", "accumulation 2", "tied")
SCENE_ROWS = ("sft", "profit 0.8")  # rows that are timed in every scene
MEMORY_ROWS = (("plain", "sft"), *((scene, "profit 0.8") for scene in SCENES))
ACCURACY_TOKENS = 128
TIME_LIMITS = (
    ("profit 0.8", "full logits", 0.75),
    ("profit 0.8", "full logits SFT", 0.9),
    ("profit 0.8", "TRL", 1.0),
    ("sft", "full logits", 1.0),
)
MIB = 2**20


def time_row(row: str, objective: dict[str, Any], step: Step, rounds: int, device: str, warm_up: bool) -> list[Record]:
    """Seconds of each candidate in each round, their median, and the ratio ours / candidate with its spread.

    A round more comes first with `warm_up`, and is not counted. A candidate that runs out of a GPU's memory is left
    out.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates(objective["name"], device)}
    # All that is alive now is left out of the collections that follow, so that they take no time.
    gc.collect()
    gc.freeze()
    for turn in range(0 if warm_up else 1, rounds + 1):
        for name in list(seconds):
            step.clear()
            gc.collect()
            started = time.perf_counter()
            try:
                step.run(CANDIDATES[name], objective)
                if device == "cuda":
                    torch.cuda.synchronize()
            except torch.OutOfMemoryError:
                del seconds[name]
                continue
            if turn:
                seconds[name].append(time.perf_counter() - started)
    gc.unfreeze()
    step.clear()
    records = []
    for name, taken in seconds.items():
        records.append({"row": row, "candidate": name, "seconds": taken, "median": statistics.median(taken)})
        if name != "ours":
            ratios = [own / other for own, other in zip(seconds["ours"], taken, strict=True)]
            records[-1] |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return records


def peak_memory(setup: Setup, scene: str, candidate: str, objective: dict[str, Any], tokens: int) -> int:
    """Bytes at the peak of a step, `tokens` a call, beyond weight, hidden states and their gradients.

    To be asked in a fresh process: on a CPU, its peak of resident memory counts all that ever was resident.
    """
    torch.set_num_threads(setup.threads)
    # Imports and the libraries' own buffers are not the step's.
    small = Setup(64, 16, setup.device, setup.threads)
    Step("plain", *make_inputs(small, 8)).run(CANDIDATES[candidate], objective)
    step = Step(scene, *make_inputs(setup, tokens * (2 if scene == "accumulation 2" else 1)))
    gc.collect()
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = _resident("VmRSS")
    step.run(CANDIDATES[candidate], objective)
    peak = torch.cuda.max_memory_allocated() if setup.device == "cuda" else _resident("VmHWM")
    # Hidden states that are made of the weight are made within the step, and with them their gradient.
    states = sum(part.nbytes for part, _ in step.calls) * (1 if step.inputs is None else 2)
    return peak - before - step.weight.nbytes - states


def _resident(key: str) -> int:
    # Not resource.getrusage: the peak that it tells begins with that of the process which started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def memory_of(setup: Setup, **spec: Any) -> int | None:
    """`peak_memory` in a process of its own; None if memory ran out."""
    text = json.dumps({"setup": asdict(setup)} | spec)
    done = subprocess.run([sys.executable, "-m", "profit.bench", "--memory", text], capture_output=True, text=True)
    if done.returncode == -9 or "OutOfMemoryError" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(f"memory of {spec['candidate']}: found exit status {done.returncode}\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


def memory_plan(setup: Setup, tokens: list[int]) -> list[tuple[str, str, str, list[int]]]:
    """(row, scene, candidate, tokens a call to measure at); `full logits` are extrapolated to the largest number.

    The logits of all tokens grow in a straight line with them, and soon fill a machine; other scenes than plain have
    their two ends measured only.
    """
    plan = []
    for scene, row in MEMORY_ROWS:
        plain = scene == "plain"
        compared = candidates(ROWS[row][0]["name"], setup.device)
        for name in compared if plain and (row != "sft" or setup.device == "cuda") else ("ours", "full logits"):
            if name == "full logits":
                plan.append((row, scene, name, tokens[:-1] if plain else tokens[:2]))
            elif name != "full logits SFT":
                plan.append((row, scene, name, tokens if plain else tokens[-1:]))
    return plan


def extrapolate(points: list[tuple[int, float]], at: int) -> float:
    """The value at `at` of the straight line through points (x, y), by least squares."""
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return intercept + slope * at


def error_row(
    row: str, objective: dict[str, Any], setup: Setup, inputs: tuple[Tensor, Tensor, Tensor]
) -> list[Record]:
    """Relative error of each candidate's loss, and gradients of hidden states and weight."""
    hidden, weight, targets = inputs
    exact = Step("plain", hidden.double(), weight.detach().double(), targets)
    loss = exact.run(full_logits, objective)
    step, records = Step("plain", hidden, weight, targets), []
    for name in candidates(objective["name"], setup.device):
        if name != "full logits SFT":
            step.clear()
            record = {"row": row, "candidate": name, "loss": abs(step.run(CANDIDATES[name], objective) / loss - 1)}
            for key, leaf, reference in (
                ("hidden", step.calls[0][0], exact.calls[0][0]),
                ("weight", step.weight, exact.weight),
            ):
                record[key] = float((leaf.grad - reference.grad).norm() / reference.grad.norm())
            records.append(record)
    step.clear()
    return records


def judge(found: dict[str, list[Record]], device: str, tokens: int, memory_tokens: list[int]) -> list[Record]:
    """Each target with its limit, what was found (None: not measured) and whether that meets it."""

    def value(table: str, key: str, **where: Any) -> float:
        matches = [record[key] for record in found[table] if where.items() <= record.items()]
        return math.nan if not matches or matches[0] is None else matches[0]

    def ratio(row: str, other: str, scene: str = "plain") -> float:
        return value("time", "ratio", row=row, candidate=other, scene=scene, tokens=tokens)

    def memory(row: str, name: str, number: int, scene: str = "plain") -> float:
        return value("memory", "bytes", row=row, candidate=name, scene=scene, tokens=number)

    least, most = memory_tokens[0], memory_tokens[-1]
    targets: list[tuple[str, float, float]] = []
    if device == "cuda":
        targets += [(f"time of {row}: ours / Liger", 1.0, ratio(row, "Liger")) for row in SCENE_ROWS]
        for row in SCENE_ROWS:
            excess = memory(row, "ours", most) - memory(row, "Liger", most)
            targets.append((f"memory of {row} at {most} tokens: ours - Liger, MiB", 0.0, excess / MIB))
    else:
        for scene in SCENES:
            for row, other, limit in TIME_LIMITS:
                targets.append((f"time of {row}, {scene}: ours / {other}", limit, ratio(row, other, scene)))
        for scene in SCENES:
            limit = 0.05 * memory("profit 0.8", "full logits", most, scene) / MIB
            name = f"memory of profit 0.8 at {most} tokens, {scene}: MiB, against 5 % of full logits"
            targets.append((name, limit, memory("profit 0.8", "ours", most, scene) / MIB))
        for row in SCENE_ROWS:
            small = memory(row, "ours", least) / MIB
            growth = memory(row, "ours", most) / MIB - small
            name = f"memory of {row}: growth from {least} to {most} tokens, MiB, against 10 % or 32 MiB"
            targets.append((name, max(0.1 * small, 32.0), growth))
        own = [record for record in found["error"] if record["candidate"] == "ours"]
        targets.append(("largest relative error of a loss", 1e-6, max(record["loss"] for record in own)))
        gradient = max(record[key] for record in own for key in ("hidden", "weight"))
        targets.append(("largest relative error of a gradient", 1e-5, gradient))
    return [
        {
            "target": name,
            "limit": limit,
            "found": number,
            "met": None if math.isnan(limit - number) else number <= limit,
        }
        for name, limit, number in targets
    ]


def hardware(device: str) -> Record:
    """What the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "system": platform.platform()}


def measure(setup: Setup, tokens: list[int], memory_tokens: list[int], rounds: int) -> dict[str, list[Record]]:
    """All measurements, said as they come: tables `time`, `memory` (bytes) and `error`."""
    scenes = [(number, row, scene) for number in tokens for scene in SCENES for row in ROWS]
    scenes = [(number, row, scene) for number, row, scene in scenes if scene == "plain" or row in SCENE_ROWS]
    plan = memory_plan(setup, memory_tokens)
    total, done = len(scenes) + sum(len(sizes) for *_, sizes in plan) + len(ROWS), 0

    def begin(what: str) -> None:
        nonlocal done
        done += 1
        print(f"[{done} of {total}] {what}", flush=True)

    found: dict[str, list[Record]] = {"time": [], "memory": [], "error": []}
    chosen: dict[int, dict[str, Record]] = {}
    inputs: tuple[Tensor, Tensor, Tensor] | None = None
    for number, row, scene in scenes:
        begin(f"time of {row}, {scene}, {number} tokens")
        if number not in chosen:
            inputs = make_inputs(setup, number)
            chosen[number] = objectives(*inputs)
        first = not found["time"]
        for record in time_row(row, chosen[number][row], Step(scene, *inputs), rounds, setup.device, first):
            found["time"].append({"scene": scene, "tokens": number, "objective": chosen[number][row]} | record)
            say_time(record)
    inputs = make_inputs(setup, min(ACCURACY_TOKENS, tokens[0]))
    exact = objectives(*inputs)
    for row in ROWS:
        begin(f"errors of {row}, {len(inputs[2])} tokens")
        for record in error_row(row, exact[row], setup, inputs):
            found["error"].append(record)
            numbers = ", ".join(f"{key} {record[key]:.1e}" for key in ("loss", "hidden", "weight"))
            print(f"    {record['candidate']:20}{numbers}", flush=True)
    # Thresholds found for the smallest batch: how many tokens they keep of another hardly matters here.
    for row, scene, name, sizes in plan:
        where = {"row": row, "scene": scene, "candidate": name}
        points = []
        for number in sizes:
            begin(f"memory of {row}, {scene}, {name}, {number} tokens")
            objective = chosen[tokens[0]][row]
            points.append(memory_of(setup, scene=scene, candidate=name, objective=objective, tokens=number))
            found["memory"].append(where | {"tokens": number, "bytes": points[-1], "extrapolated": False})
            say_memory(found["memory"][-1])
        if sizes[-1] != memory_tokens[-1]:
            measured = [(number, size) for number, size in zip(sizes, points, strict=True) if size is not None]
            size = extrapolate(measured, memory_tokens[-1]) if len(measured) > 1 else None
            found["memory"].append(where | {"tokens": memory_tokens[-1], "bytes": size, "extrapolated": True})
            say_memory(found["memory"][-1])
    return found


def say_time(record: Record) -> None:
    line = f"    {record['candidate']:20}{record['median']:10.4f} s"
    if "ratio" in record:
        line += f"    ours / this {record['ratio']:.3f} ({record['ratio_min']:.3f} to {record['ratio_max']:.3f})"
    print(line, flush=True)


def say_memory(record: Record) -> None:
    size = "memory ran out" if record["bytes"] is None else f"{record['bytes'] / MIB:.0f} MiB"
    print(f"    {record['tokens']:20} tokens {size}{' (extrapolated)' * record['extrapolated']}", flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m profit.bench", description="Measure the fused LM head.")
    parser.add_argument("--output", default="results/bench/head.json", help="JSON, all measurements and targets")
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--hidden", type=int, default=1024, help="width of the hidden states")
    parser.add_argument(
        "--tokens", type=int, nargs="+", help="tokens of a step to time; default 1024, on a GPU 32768 too"
    )
    parser.add_argument("--memory-tokens", type=int, nargs="+", help="tokens of a call, rising; default 1024 … 8192")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU; default all cores")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> None:
    arguments = make_parser().parse_args(argv)
    if arguments.memory:
        spec = json.loads(arguments.memory)
        print(peak_memory(**spec | {"setup": Setup(**spec["setup"])}))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = arguments.tokens or [1024, *([32768] if device == "cuda" else [])]
    memory_tokens = arguments.memory_tokens or [1024, 2048, 4096, 8192, *([32768] if device == "cuda" else [])]
    for option, found, least in (
        ("vocabulary", arguments.vocabulary, 32),
        ("hidden", arguments.hidden, 1),
        ("tokens", min(tokens), 32),
        ("memory-tokens", min(memory_tokens), 32),
        ("rounds", arguments.rounds, 1),
        ("threads", arguments.threads, 1),
    ):
        if found < least:
            raise InputError(f"--{option}: found {found}, expected at least {least}")
    if len(memory_tokens) < 3 or memory_tokens != sorted(set(memory_tokens)):
        raise InputError(f"--memory-tokens: found {memory_tokens}, expected at least three rising numbers")
    if device == "cpu" and not Path("/proc/self/status").is_file():
        raise InputError("found no /proc/self/status, expected Linux: the memory of a step is read from there")
    torch.set_num_threads(arguments.threads)
    setup = Setup(arguments.vocabulary, arguments.hidden, device, arguments.threads)
    found = measure(setup, tokens, memory_tokens, arguments.rounds)
    targets = judge(found, device, tokens[-1], memory_tokens)
    print("\nTargets")
    for target in targets:
        met = {True: "met", False: "NOT MET", None: "not measured"}[target["met"]]
        print(f"    {met:14}{target['found']:10.3g} of at most {target['limit']:8.3g}  {target['target']}")
    content = {"hardware": hardware(device), "setup": asdict(setup), "tokens": tokens, "rounds": arguments.rounds}
    packages = {name: importlib.metadata.version(PACKAGES[name][0]) for name in PACKAGES if installed(name)}
    content |= {"memory_tokens": memory_tokens, "versions": {"torch": torch.__version__} | packages}
    write_json(arguments.output, content | found | {"targets": targets})
    print(f"\nWritten: {arguments.output}")


if __name__ == "__main__":
    main()
