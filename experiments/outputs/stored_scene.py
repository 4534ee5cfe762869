"""What a run keeps of its scene and model, see `nerf_haiku.models`.

With it videos are rendered where the data set is not at hand.
"""

import os
import pathlib
from typing import Any

import ml_collections

from experiments.builders import model, scene_loader
from experiments.configs import schema
from experiments.outputs import json_files
from nerf_haiku import models, records, scene_files, scenes


def write(
  folder: pathlib.Path, config: ml_collections.ConfigDict, scene: scenes.Scene
) -> None:
  """Writes the scene without images, and the record of the model."""
  scene_files.write(folder / models.SCENE, scene)
  records.write(folder / models.RECORD, model.make_record(config, scene))


def read(folder: pathlib.Path) -> scenes.Scene | None:
  """Reads a scene without images; None if the run has none.

  Raises:
    UserError: if the file is corrupt.
  """
  path = folder / models.SCENE
  return scene_files.read(path) if os.path.exists(path) else None


def fits(
  config: ml_collections.ConfigDict, stored: dict[str, Any], *, path: bool
) -> bool:
  """Returns whether a config describes the scene that a run has stored.

  Args:
    config: the config in use.
    stored: the fields of the run's own config.
    path: whether the scene's own path is needed.
  """
  fields = json_files.to_json_types(dict(schema.flatten(config)))
  names = scene_loader.field_names(fields)
  if not path:
    names -= scene_loader.PATH_FIELDS
  return all(name in stored and stored[name] == fields[name] for name in names)
