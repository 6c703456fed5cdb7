"""What a node sees of the store, told to the login node through the store: python probe.py FOLDER

Only Python itself is needed. The node writes ping-N, and waits for pong-N of the login node; the time between the two is
measured by one clock. seen.json then says what the node is.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

NUM_ROUNDS = 5
POLL_S, WAIT_S = 0.02, 30.0


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all, and have it leave this machine."""
    aside = path.with_name(f".{path.name}")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def wait_for(path: Path) -> bool:
    """Whether a file appears in time. The folder is listed: a network file system may remember that a file was not there."""
    deadline = time.monotonic() + WAIT_S
    while path.name not in os.listdir(path.parent):  # noqa: PTH208
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def resolves(name: str) -> bool:
    """Whether a name leads to an address."""
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def main() -> None:
    """Answer the login node."""
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "asked.json").read_text())
    rounds_s = []
    for number in range(NUM_ROUNDS):
        started = time.monotonic()
        write(folder / f"ping-{number}", "ping")
        if not wait_for(folder / f"pong-{number}"):
            break
        rounds_s.append(time.monotonic() - started)
    seen = {
        "host": socket.gethostname(),
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "python": sys.version.split()[0],
        "rounds_s": rounds_s,
        "store": os.path.realpath(folder.parent),
        "unknown": [name for name in asked["nodes"] if not resolves(name)],
        "code": Path(asked["code"]).is_dir(),
        "time": time.time(),
    }
    write(folder / "seen.json", json.dumps(seen))


if __name__ == "__main__":
    main()
