"""Runs that take seconds."""

import ml_collections

from experiments.configs import laptop_procedural


def small(
  *, width: int, num_train: int, num_test: int, **changes
) -> ml_collections.ConfigDict:
  """The built-in scene at 16x16 pixels and networks of two layers."""
  config = laptop_procedural.get_config()
  config.procedural.update(size=16, num_train=num_train, num_test=num_test)
  for model in (config.model, config.model_fine):
    model.update(net_depth=2, net_width=width, skips=())
  config.update(changes)
  return config
