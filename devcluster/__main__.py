"""`python -m devcluster`: a cluster in the foreground, until Ctrl-C."""

import json
import subprocess
import sys
from typing import Any

from devcluster.binaries import devcluster_binary
from devcluster.golang import GoError


def main(arguments: list[str]) -> int:
    """Run `devcluster up` with the arguments, tell how to use the cluster, and return up's exit code."""
    try:
        binary = devcluster_binary()
    except GoError as error:
        print(error, file=sys.stderr)
        return 1
    # In a session of its own, so that Ctrl-C reaches this process only; the end of stdin then stops `up`,
    # as it also does if this process is killed.
    up = subprocess.Popen(
        [binary, "up", "--stop-on-stdin-eof", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with up:
        assert up.stdout is not None  # noqa: S101 - it is a pipe
        try:
            for line in up.stdout:
                show(json.loads(line), [str(binary), "kubectl"])
        except KeyboardInterrupt:
            print("\nStopping the cluster", flush=True)
    return up.returncode


def show(event: dict[str, Any], kubectl: list[str]) -> None:
    """Tell a person about an event of `up`."""
    if event["event"] == "exited":
        print(f"{event['name']} ended by itself ({event['status']}); its log: {event['log']}", flush=True)
    elif event["event"] == "ready":
        print(
            f"Ready after {event['seconds']} s: {event['server']}\n\n"
            f"  export KUBECONFIG={event['kubeconfig']}\n"
            f"  {' '.join(kubectl)} get namespaces\n\n"
            f"Its audit log is {event['audit_log']}. Ctrl-C stops it.",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
