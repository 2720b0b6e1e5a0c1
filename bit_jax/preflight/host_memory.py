"""Reads how much memory this machine has to spare."""

import os
import pathlib

_MEMINFO = "/proc/meminfo"
# (limit, use) of a container, in cgroup versions 2 and 1.
_CGROUPS = (
  ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
  (
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/memory/memory.usage_in_bytes",
  ),
)


def available_bytes() -> int:
  """Returns the bytes that programs can still allocate; 0 if unknown.

  In a container with a limit it is no more than is left of that.
  """
  found = [_of_system(), *(_of_container(*paths) for paths in _CGROUPS)]
  return min(filter(None, found), default=0)


def _of_system() -> int:
  try:
    with open(_MEMINFO, encoding="ascii") as lines:
      for line in lines:
        if line.startswith("MemAvailable:"):
          return int(line.split()[1]) * 1024
  except (OSError, ValueError):
    pass
  # Other systems do not tell what is in use.
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (OSError, ValueError):
    return 0


def _of_container(limit: str, use: str) -> int:
  try:
    left = int(pathlib.Path(limit).read_text()) - int(
      pathlib.Path(use).read_text()
    )
  except (OSError, ValueError):  # No container, or no limit ("max").
    return 0
  # Files that are cached count as use, and are given up for programs.
  return max(left, 1)
