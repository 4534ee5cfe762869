"""What videos need of a scene, kept in the folder of a run.

With it they are rendered where the data set is not at hand.
"""

import os
import pathlib
from typing import Any, NoReturn

import ml_collections
import numpy as np

from experiments.builders import scene_loader
from experiments.configs import schema
from experiments.outputs import json_files
from nerf_haiku import cameras, errors, scenes, similarity

FILE = 'scene.json'

_SPLITS = ('train', 'val', 'test')
_FIELDS = ('near', 'far', 'box', 'ndc', 'path', 'notices', *_SPLITS)


def write(folder: pathlib.Path, scene: scenes.Scene) -> None:
  """Writes the bounds of a scene, and all of its cameras."""
  content: dict[str, Any] = {
    'near': scene.near,
    'far': scene.far,
    'box': None if scene.box is None else np.asarray(scene.box).tolist(),
    'ndc': None if scene.ndc is None else scene.ndc._asdict(),
    'path': _to_lists(scene.path),
    'notices': scene.notices,
    'similarity': _similarity_to_lists(scene.similarity),
    'contracted': scene.contracted,
  }
  for name in _SPLITS:
    split = getattr(scene, name)
    content[name] = _to_lists(split.cameras) | {
      'digest': split.digest,
      'names': split.names,
    }
  json_files.write_json(folder / FILE, content)


def read(folder: pathlib.Path) -> scenes.Scene | None:
  """Reads a scene without images; None if the run has none.

  Raises:
    UserError: if the file is corrupt.
  """
  path = folder / FILE
  if not os.path.exists(path):
    return None
  content = json_files.read_json(path, *_FIELDS, cure='Delete it.')
  # Older runs have no similarity.
  moved = _to_similarity(content.get('similarity'))
  # Positions may be large where they are moved to the field.
  dtype = np.float32 if moved is None else np.float64
  splits: dict[str, Any] = {
    name: scenes.Split(
      scenes.LazyImages(len(content[name]['sizes']), _refuse),
      _to_cameras(content[name], dtype),
      content[name]['digest'],
      tuple(content[name].get('names', ())),
    )
    for name in _SPLITS
  }
  box, ndc = content['box'], content['ndc']
  return scenes.Scene(
    near=content['near'],
    far=content['far'],
    box=None if box is None else np.array(box, np.float32),
    path=_to_cameras(content['path'], dtype),
    notices=tuple(content['notices']),
    ndc=None if ndc is None else cameras.Ndc(tuple(ndc['focal']), ndc['near']),
    similarity=moved,
    contracted=content.get('contracted', False),
    **splits,
  )


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


def _refuse(index: int) -> NoReturn:
  raise errors.UserError(
    f'--data_dir: image {index} is needed, but only the cameras are kept with '
    'the run: name the data set.'
  )


def _similarity_to_lists(
  moved: similarity.Similarity | None,
) -> dict[str, Any] | None:
  if moved is None:
    return None
  return {x: np.asarray(y).tolist() for x, y in moved._asdict().items()}


def _to_similarity(
  content: dict[str, Any] | None,
) -> similarity.Similarity | None:
  if content is None:
    return None
  rotation, translation = map(
    np.asarray, (content['rotation'], content['translation'])
  )
  return similarity.Similarity(content['scale'], rotation, translation)


def _to_lists(cams: cameras.Cameras) -> dict[str, Any]:
  return {
    name: np.asarray(x).tolist()
    for name, x in cams._asdict().items()
    if x is not None
  }


def _to_cameras(
  content: dict[str, Any], dtype: type[np.floating]
) -> cameras.Cameras:
  return cameras.Cameras(
    camera_to_world=np.array(content['camera_to_world'], dtype),
    intrinsics=np.array(content['intrinsics'], np.float32),
    sizes=np.array(content['sizes'], np.int32),
    **{
      name: np.array(content[name], dtype)
      for name, dtype in (('distortion', np.float32), ('fisheye', bool))
      if name in content
    },
  )
