"""Run a rule's job: `python -m profit train --help` is `python -m profit.train --help`.

Under a local Snakemake the job runs in a fork of a server that has the heavy packages loaded (profit.forkserver), else
here. Either way it ends with Snakemake. Imports little of the standard library: every job pays for this start-up.
"""

import json
import os
import socket
import sys
import time

SOCKET = "PROFIT_FORK_SERVER"
CLIENT_SECONDS = "PROFIT_CLIENT_CPU_SECONDS"


def ask(rule: str, argv: list[str]) -> int | None:
    """Run a rule in a fork of the server and return its exit status, 128 + signal if killed; None without a server."""
    if SOCKET not in os.environ:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.environ[SOCKET])
    except OSError:
        return None
    environment = {**os.environ, CLIENT_SECONDS: str(time.process_time())}
    request = json.dumps({"rule": rule, "argv": argv, "folder": os.getcwd(), "environment": environment}).encode()
    socket.send_fds(connection, [len(request).to_bytes(4)], [1, 2])
    connection.sendall(request)
    answer = connection.recv(4)
    if not answer:
        print("The fork server ended before the job did.", file=sys.stderr)
        return 1
    return int.from_bytes(answer)


def main() -> None:
    """Hand the command line to the fork server, or run it here."""
    if len(sys.argv) < 2 or not sys.argv[1].isidentifier():
        sys.exit(f"{__doc__.partition('.')[0]}\n\nusage: python -m profit RULE …")
    rule, argv = sys.argv[1], sys.argv[2:]
    status = ask(rule, argv)
    if status is None:
        from profit.forkserver import end_with_workflow, run_rule

        end_with_workflow()
        status = run_rule(rule, argv)
    sys.exit(status)


if __name__ == "__main__":
    main()
