"""Small models with the files of a run, as if they had been trained."""

import pathlib

import jax
import numpy as np
import optax

from nerf_haiku import (
  camera_paths,
  cameras,
  checkpoints,
  models,
  records,
  scene_files,
  scenes,
  training,
)
from nerf_haiku.renderers import base


def scene(views=None, images=None, names=(), **changes):
  """Returns a scene of some cameras, by default two without images."""
  if views is None:
    views = cameras.pinhole(camera_paths.circle(2), [[6, 8]] * 2, [9.0] * 2)
  if images is None:
    images = scenes.LazyImages(len(views.sizes), lambda index: None)
  split = scenes.Split(images, views, names=names)
  made = scenes.Scene(
    train=split,
    val=split,
    test=split,
    near=0.5,
    far=8.0,
    box=None,
    path=views,
    notices=(),
  )
  return made._replace(**changes)


def record(kind='hierarchical', *, contracted=False, **settings):
  """Returns the record of a small hash grid."""
  half = 2.0 if contracted else 1.5
  field = {
    'kind': 'hash',
    'box': [[-half] * 3, [half] * 3],
    'num_levels': 3,
    'base_resolution': 4,
    'max_resolution': 12,
    'hashmap_size': 512,
    'density_width': 8,
    'color_width': 8,
  }
  renderer = {
    'kind': kind,
    'contracted': contracted,
    'perturb': True,
    'raw_noise_std': 0.0,
    'density_activation': 'softplus',
    'infinite_end': False,
    'background': [0.0, 0.0, 0.0],
    'gradient_radius': 0.0,
    **settings,
  }
  made = {'field': field}
  if kind == 'hierarchical':
    renderer |= {'num_samples': 512, 'num_importance': 0, 'lindisp': False}
    made = {'coarse': field}
  elif kind == 'proposal':
    renderer['num_samples'] = [8, 512]
    made = {'proposal_0': field | {'has_color': False}, 'field': field}
  else:
    renderer['march'] = {
      'box': field['box'],
      'step_size': 0.01,
      'resolution': 8,
      'max_samples': 2**15,
    }
  return {'renderer': renderer, 'fields': made, 'pixel_center': True}


def model(record, scene):
  """Returns a model whose field varies from place to place."""
  renderer = records.make_renderer(record)
  variables = jax.jit(renderer.init)(jax.random.key(0))
  params = jax.tree.map(
    lambda x: x + 0.5 * np.sin(np.arange(x.size)).reshape(x.shape),
    variables.params,
  )
  variables = base.Variables(params, variables.state)
  return models.make_model(record, scene, variables, step=7)


def write_run(folder: pathlib.Path, record, scene):
  """Writes the files of a run, and returns its state."""
  renderer = records.make_renderer(record)
  state = training.init_state(renderer, optax.adam(1e-3), jax.random.key(1))
  records.write(folder / models.RECORD, record)
  scene_files.write(folder / models.SCENE, scene)
  with checkpoints.Checkpoints(folder / models.CHECKPOINTS) as existing:
    existing.save(jax.tree.map(np.asarray, state), {'seed': 0})
  return state
