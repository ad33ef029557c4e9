"""Ports for the servers that tests start."""

import random
import socket
from pathlib import Path

RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST, USUAL_END = 10_000, 32_768


def find_ports(count: int) -> list[int]:
    """Find different ports that are free, and that no outgoing connection is given meanwhile.

    The kernel takes the near ends of outgoing connections from a range of its own; a server of
    many parts talks to itself before its last part listens, so its ports lie below that range.
    """
    end = int(RANGE_FILE.read_text().split()[0]) if RANGE_FILE.exists() else USUAL_END
    candidates = random.Random().sample(range(FIRST, end), end - FIRST)
    free = (port for port in candidates if _is_free(port))
    return [next(free) for _ in range(count)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
