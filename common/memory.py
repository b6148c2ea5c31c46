"""Memory that a process may still take."""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

_PAGE = resource.getpagesize()
# Of control groups of version 2 and 1: their folder, the files of limit and use, what counts with all groups below.
_GROUPS = {
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", ""),
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


def free_memory() -> int:
    """Bytes that are free: of the machine, of a container's or a job's share, of what `ulimit -v` leaves.

    sys.maxsize where the system does not say.
    """
    return max(0, min([*_of_machine(), *_of_groups(), *_of_process()], default=sys.maxsize))


def _of_machine() -> Iterator[int]:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) << 10


def _of_groups() -> Iterator[int]:
    for line in _lines("/proc/self/cgroup"):
        _, kind, path = line.split(":", 2)
        if kind in _GROUPS:
            root, limit_name, used_name, prefix = _GROUPS[kind]
            files = (f"{prefix}inactive_file", f"{prefix}active_file")  # given back when it is needed
            folder = Path(root, path.lstrip("/"))
            for place in (folder, *folder.parents):  # inside a container the path may be one outside of it
                limit, used = _lines(place / limit_name), _lines(place / used_name)
                if limit and used and limit[0].isdecimal():  # not 'max'
                    entries = map(str.split, _lines(place / "memory.stat"))
                    yield int(limit[0]) - int(used[0]) + sum(int(size) for name, size in entries if name in files)


def _of_process() -> Iterator[int]:
    limit, sizes = resource.getrlimit(resource.RLIMIT_AS)[0], _lines("/proc/self/statm")
    if limit != resource.RLIM_INFINITY and sizes:
        yield limit - int(sizes[0].split()[0]) * _PAGE


def _lines(path: Path | str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
