"""Trains a NeRF, renders its test views and scores them.

With no flag it learns the built-in scene:

  python experiments/train.py

On Blender's lego, with the paper's settings:

  python experiments/train.py --data_dir=data \
      --config=experiments/configs/paper_blender_lego.py --model_dir=runs/lego
"""

import pathlib
import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from experiments import config as config_lib
from experiments import loop

_HERE = pathlib.Path(__file__).parent

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  str(_HERE / 'configs' / 'quickstart.py'),
  'Settings; --config.field=value changes one.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Root of the data set, or the folder of the scene.'
)
_MODEL_DIR = flags.DEFINE_string(
  'model_dir', None, 'Where the run is kept; default: runs/NAME_OF_CONFIG.'
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Of everything random.', lower_bound=0, upper_bound=2**31 - 1
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}.')
  path = config_flags.get_config_filename(flags.FLAGS[_CONFIG.name])
  name = pathlib.Path(path).stem
  model_dir = pathlib.Path(_MODEL_DIR.value or f'runs/{name}')
  try:
    config_lib.check(_CONFIG.value, jax.local_device_count())
    content = loop.train(
      _CONFIG.value,
      data_dir=_DATA_DIR.value,
      model_dir=model_dir,
      seed=_SEED.value,
    )
  except ValueError as error:
    sys.exit(f'Error: {error}')
  print(
    f'PSNR {content["psnr"]:.2f} dB over {content["views"]} test views after '
    f'{content["train_seconds"]:.0f} s of training: '
    f'{model_dir / loop.RESULTS}, pictures in {model_dir / loop.VIEWS}'
  )


if __name__ == '__main__':
  app.run(main)
