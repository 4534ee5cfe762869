"""Finds the cameras of photographs, or of the frames of a video.

  python experiments/photos.py --photos=PHOTOS --out=runs/garden_capture

It needs `pip install -e '.[photos]'`. The result is a model of COLMAP with
copies of the photographs, which `train.py` reads; the last line has the
command. docs/captures.md tells how to take the photographs.
"""

import os
import sys

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from experiments.processes import signals

if __name__ == '__main__':
  signals.exit_on_interrupt()  # Before the imports that take seconds.

import pathlib
import signal

from absl import app, flags

from experiments.processes import command_line
from experiments.reconstruction import pipeline
from nerf_haiku import errors
from nerf_haiku.io import safe_reading

_PHOTOS = flags.DEFINE_string(
  'photos', None, 'Folder of photographs, with its sub-folders; or a video.'
)
_OUT = flags.DEFINE_string(
  'out', None, 'Folder of the result, new or empty; it gets copies.'
)
_FRAMES = flags.DEFINE_integer(
  'frames',
  100,
  'Number of frames to take from a video: the sharpest of as many intervals.',
  lower_bound=3,
  upper_bound=2000,
)
_MATCHING = flags.DEFINE_enum(
  'matching',
  'auto',
  ['auto', 'exhaustive', 'sequential'],
  'Which pairs of photographs are matched: all (exhaustive), or those near in '
  'the order of their names and some further apart (sequential). auto: all of '
  'up to 100 photographs.',
)
_MAX_SIZE = flags.DEFINE_integer(
  'max_size',
  1600,
  'Pixels of the longer side at which features are found. 800 is faster and '
  'needs less memory; cameras are a little less accurate.',
  lower_bound=100,
  upper_bound=8192,
)
_NUM_FEATURES = flags.DEFINE_integer(
  'num_features',
  4096,
  'Features of a photograph, at most.',
  lower_bound=100,
  upper_bound=32768,
)
_THREADS = flags.DEFINE_integer(
  'threads',
  1,
  'Threads of the mapper. With more than 1 large sets are faster, but two runs '
  'differ a little; with 1 the files are equal, byte for byte. All cores find '
  'and match features either way.',
  lower_bound=1,
  upper_bound=256,
)


def main() -> None:
  """Reconstructs the cameras, and prints what to do next."""
  print(
    pipeline.reconstruct(
      _required(_PHOTOS),
      _required(_OUT),
      pipeline.Settings(
        frames=_FRAMES.value,
        matching=_MATCHING.value,
        max_size=_MAX_SIZE.value,
        num_features=_NUM_FEATURES.value,
      ),
      mapping_threads=_THREADS.value,
    )
  )


def _required(flag: flags.FlagHolder[str | None]) -> pathlib.Path:
  if not flag.value:
    raise errors.UserError(f'--{flag.name} is required.')
  return safe_reading.expand_user(flag.value)


def _run(argv: list[str]) -> None:
  """Runs the program; an error that the user can fix is one line."""
  del argv
  try:
    signals.raise_on_signals()
    main()
  except (*command_line.USER_ERRORS, OSError) as error:
    sys.exit(f'Error: {command_line.in_one_line(error)}')
  except KeyboardInterrupt as error:
    terminated = isinstance(error, signals.TerminatedError)
    sys.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))
  signals.exit_on_interrupt()


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; a wrong one is printed as one line."""
  try:
    remaining = flags.FLAGS(argv)
    command_line.check_text_flags()
  except (errors.UserError, flags.Error) as error:
    sys.exit(f'Error: {command_line.in_one_line(error)}')
  if len(remaining) > 1:
    sys.exit(f'Error: {command_line.describe_unexpected(remaining[1])}')
  return remaining


if __name__ == '__main__':
  command_line.make_outputs_safe()
  app.run(_run, flags_parser=_parse)
