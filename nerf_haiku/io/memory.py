"""The memory that this process may still use."""

import os
import pathlib
from collections.abc import Iterator

_MEMINFO = pathlib.Path('/proc/meminfo')
_OWN_CGROUPS = pathlib.Path('/proc/self/cgroup')
_CGROUP_ROOT = pathlib.Path('/sys/fs/cgroup')
# Names of the limit and of the usage, in versions 2 and 1 of control groups.
_CGROUP_FILES = (
  ('memory.max', 'memory.current'),
  ('memory.limit_in_bytes', 'memory.usage_in_bytes'),
)
# Pages of files: counted as used, but the kernel gives them up when asked.
_RECLAIMABLE = ('inactive_file', 'active_file')


def available() -> int | None:
  """Returns the bytes of memory that can still be allocated.

  That is what the system has available, or less where a container (a Linux
  control group) limits it. Where the system does not say what is available, as
  on macOS, it is the physical memory; where nothing can be read, as on
  Windows, None.
  """
  system = _available_in_system()
  limits = [*_left_in_cgroups(), *([] if system is None else [system])]
  return min(limits, default=None)


def _available_in_system() -> int | None:
  try:
    for line in _MEMINFO.read_text().splitlines():
      name, _, value = line.partition(':')
      if name == 'MemAvailable':
        return int(value.split()[0]) * 1024
  except (OSError, ValueError, IndexError):
    pass
  try:
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  except (AttributeError, OSError, ValueError):
    return None


def _left_in_cgroups() -> Iterator[int]:
  """Yields what each limited group that holds this process has left."""
  for folder in _cgroup_folders():
    for limit_file, usage_file in _CGROUP_FILES:
      try:
        limit = int((folder / limit_file).read_text())
        used = int((folder / usage_file).read_text())
      except (OSError, ValueError):  # No such group, or its limit is 'max'.
        continue
      yield max(limit - used + _reclaimable(folder), 0)


def _cgroup_folders() -> Iterator[pathlib.Path]:
  """Yields the folders of this process's memory groups and their parents."""
  try:
    lines = _OWN_CGROUPS.read_text('utf-8', 'replace').splitlines()
  except OSError:
    return
  for line in lines:
    _, controllers, group = line.split(':', 2)
    if controllers in ('', 'memory'):  # The one group of version 2, or of 1.
      folder = _CGROUP_ROOT / controllers / group.strip('/')
      yield folder
      yield from (
        parent
        for parent in folder.parents
        if parent.is_relative_to(_CGROUP_ROOT)
      )


def _reclaimable(folder: pathlib.Path) -> int:
  try:
    lines = (folder / 'memory.stat').read_text().splitlines()
    pairs = (line.split() for line in lines)
    return sum(int(value) for name, value in pairs if name in _RECLAIMABLE)
  except (OSError, ValueError):
    return 0
