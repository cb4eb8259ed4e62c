"""How fast this machine is at what the jobs of a miniature do: matrix products of a small model, Python between them.

All cores work at once, since a core is slower beside a busy one, and the clock counts, since what the neighbours of a
virtual machine take from it counts for the jobs too. In processes of their own: Snakemake itself imports no NumPy.

    python -m profit.probe        # seconds of a piece of work on one core
"""

import os
import statistics
import subprocess
import sys
import time

PIECES = 41
# A piece on the machine that the costs of profit.plan were measured on, both of its cores at work.
REFERENCE_SECONDS = 0.0142


def speed(cores: int) -> float:
    """How many times slower than the reference this machine is with so many cores at work; takes about a second."""
    command = [sys.executable, "-P", __file__]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    working = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(cores)]
    return statistics.mean(float(process.communicate()[0]) for process in working) / REFERENCE_SECONDS


def main() -> None:
    """Print the seconds of a piece of work: the lower quartile, since what lasts a moment says nothing of the hour."""
    import numpy as np

    states, weight = np.ones((1024, 128), np.float32), np.ones((128, 344), np.float32)

    def piece() -> float:
        started = time.perf_counter()
        for _ in range(10):
            states @ weight
        sum(number * number % 7 for number in range(100_000))
        return time.perf_counter() - started

    print(statistics.quantiles((piece() for _ in range(PIECES)), n=4)[0])


if __name__ == "__main__":
    main()
