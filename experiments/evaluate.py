"""Renders and scores the test views of a trained run.

  python experiments/evaluate.py --model_dir=runs/lego --step=4000

The config and the data folder are those of the run; flags override them.
"""

import os
import sys

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from experiments.processes import signals

if __name__ == '__main__':
  signals.exit_on_interrupt()  # Before the imports that take seconds.


from absl import flags

from experiments import launch
from experiments.outputs import videos
from experiments.processes import multihost
from nerf_haiku.io import safe_reading

_SAVE_DIR = flags.DEFINE_string(
  'save_dir',
  None,
  'Output folder of views and scores; default: a folder in --model_dir that is '
  'named after the step.',
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Checkpoint step; default: the latest.'
)


def main() -> None:
  """Scores the run, and prints where the results are."""
  run = launch.load_trained_run(_STEP.value)
  name = f'evaluation_{run.checkpoint.step:07}'
  save_dir = safe_reading.expand_user(
    _SAVE_DIR.value or launch.model_dir() / name
  )
  _, text = multihost.run_on_main(
    lambda: videos.score_test_views(run, save_dir), run.variables
  )
  print(text)


if __name__ == '__main__':
  launch.run(main, launch.saved_config)
