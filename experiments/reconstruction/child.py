"""Runs structure from motion in a process of its own."""

import importlib.metadata
import json
import pathlib
import re
import signal
import subprocess
import sys
from typing import IO, Any

from experiments.reconstruction import sfm, stages
from nerf_haiku import errors

_VERSIONS = {'pycolmap': ((4, 2), (5, 0)), 'pillow-heif': ((1, 8), (2, 0))}
_INSTALL = "pip install -e '.[photos]'"
_WHAT = {
  'features': 'photographs',
  'matching': 'pairs',
  'mapping': 'photographs',
  'adjustment': 'model',
}


def check_installed() -> dict[str, str]:
  """Checks that the packages of the extra `photos` are there.

  Returns:
    Their versions.

  Raises:
    UserError: names one that is missing or of another version.
  """
  versions = {}
  for package, (lowest, too_high) in _VERSIONS.items():
    try:
      version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
      raise errors.UserError(
        f'{package} is not installed: {_INSTALL}'
      ) from error
    number = tuple(int(x) for x in re.findall(r'\d+', version)[:2])
    if not lowest <= number < too_high:
      bounds = [f'{x}.{y}' for x, y in (lowest, too_high)]
      raise errors.UserError(
        f'{package} is of version {version}, but must be at least {bounds[0]} '
        f'and before {bounds[1]}: {_INSTALL}'
      )
    versions[package] = version
  return versions


def run(
  settings: sfm.Settings, log: pathlib.Path, shown: stages.Stages
) -> dict[str, Any]:
  """Reconstructs cameras and points; see `sfm.reconstruct`.

  Args:
    settings: of the process.
    log: file for what it prints.
    shown: where its progress is shown.

  Returns:
    The result.

  Raises:
    UserError: if the process ends without a result: pycolmap aborts where it
      is out of memory or disk.
  """
  with log.open('w') as file:
    process = subprocess.Popen(
      # -P: modules beside the program do not hide others.
      [sys.executable, '-P', str(pathlib.Path(sfm.__file__))],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=file,
      start_new_session=True,  # Ctrl-C is handled here.
      encoding='utf-8',
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
      process.stdin.write(f'{json.dumps(settings)}\n')
      process.stdin.flush()
      result = _follow(process.stdout, shown)
      process.wait()
    finally:
      process.kill()
      process.wait()
      process.stdout.close()
      process.stdin.close()
  if result is None:
    raise _failure(process.returncode, log)
  return result


def _follow(messages: IO[str], shown: stages.Stages) -> dict[str, Any] | None:
  """Shows the messages of the process until it ends; returns its result."""
  stage = None
  for line in messages:
    message = json.loads(line)
    if stage and 'done' not in message:
      shown.finish(_WHAT[stage])
    if 'result' in message:
      return message['result']
    if 'stage' in message:
      stage = message['stage']
      shown.start(stage, message['total'])
    else:
      shown.show(message['done'])
  return None


def _failure(code: int, log: pathlib.Path) -> Exception:
  """Returns the error of a process that ended without a result."""
  text = log.read_text('utf-8', 'replace')
  if code >= 0 and 'Traceback' in text:
    return RuntimeError(f'Structure from motion failed:\n{text}')
  how = signal.Signals(-code).name if code < 0 else f'exit code {code}'
  lines = text.strip().splitlines()[:1]
  return errors.UserError(
    f'pycolmap ended with {how}{": " if lines else ""}{"".join(lines)}. If '
    'memory or disk were full, free some, or use --max_size=800.'
  )
