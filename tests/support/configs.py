"""Configs whose runs take seconds."""

import ml_collections

from experiments.configs import default, laptop_procedural


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


def changed(**changes) -> ml_collections.ConfigDict:
  """A small `default`; `a__b` is the field `b` of section `a`."""
  config = default.get_config()
  config.update(
    dataset_type='blender',
    num_samples=8,
    num_importance=8,
    white_bkgd=True,
    density_activation='softplus',
    last_interval='far',
  )
  config.model.update(net_depth=3, net_width=8, skips=(1,))
  config.model_fine.update(net_depth=3, net_width=8, skips=(1,))
  for name, value in changes.items():
    *sections, field = name.split('__')
    section = config
    for part in sections:
      section = section[part]
    section[field] = value
  return config
