"""The cameras and bounds of a scene as a JSON file, without its photographs."""

import json
import pathlib
from typing import Any, NoReturn

import numpy as np

from nerf_haiku import cameras, errors, scenes, similarity
from nerf_haiku.io import files, safe_reading

_SPLITS = ('train', 'val', 'test')
_FIELDS = ('near', 'far', 'box', 'ndc', 'path', 'notices', *_SPLITS)


def write(path: pathlib.Path, scene: scenes.Scene) -> None:
  """Writes the bounds of a scene, and all of its cameras.

  Raises:
    WriteError: if the file cannot be written.
  """
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
  files.write(path, json.dumps(content, indent=1).encode())


def read(path: pathlib.Path) -> scenes.Scene:
  """Reads a scene; whoever asks for one of its photographs gets an error.

  Raises:
    DataError: if the file is missing or corrupt.
  """
  content: Any = safe_reading.read_json(path)
  if not isinstance(content, dict) or not all(x in content for x in _FIELDS):
    raise errors.DataError(
      f'{path}: was not written by a run, or is corrupt. Delete it.'
    )
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
