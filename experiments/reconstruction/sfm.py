"""Structure from motion with pycolmap: a program, in a process of its own.

`child.run` starts it. It imports nothing of ours: pycolmap brings a zlib that
breaks Pillow's if it is loaded first, and a failed check of its C++ ends the
process. Settings come as a line of JSON on standard input, messages go as such
lines to standard output, and the log of pycolmap to standard error.

Equal settings and photographs give equal files, byte for byte, however many
threads find features and match them: all images enter the database before
that, in order, and every seed is fixed. Only the threads of the mapper change
the result.
"""

import copy
import itertools
import json
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict

import numpy as np

_SEED = 0
_LOG_ERRORS_ONLY = 2  # At level 0 the log has the positions of photographs.
_PAIRS_AT_ONCE = 100  # Between two messages.
# Of photographs in order: each is matched with those that follow it, with some
# that follow later, and with these many from all over the order, so that a
# walk is closed where it returns.
_OVERLAP = 10
_NUM_ANCHORS = 30
_MIN_MODEL_IMAGES = 3
# When a camera's principal point is free, see `free_principal_points`.
_MIN_IMAGES_TO_FREE = 10
_MIN_TURN = 0.5
_MAX_SHIFT = 0.05  # Of the image's side.

# Reports progress: a message that JSON can hold.
Send = Callable[[dict[str, Any]], None]


class Group(TypedDict):
  """Photographs of one camera."""

  names: list[str]
  model: str  # Of the lens, as COLMAP calls it.


class Settings(TypedDict):
  """What the child process is asked to do."""

  images: str  # Folder of the photographs.
  work: str  # Folder for the database.
  output: str  # Folder of the model, which must exist.
  groups: list[Group]
  masked: list[str]  # Photographs with a mask.
  masks: str  # Folder of masks: those of a.jpg are a.jpg.png.
  final_names: dict[str, str]  # In the model, by names in `images`.
  exhaustive: bool  # Whether all pairs are matched.
  max_size: int  # Of the longer side for features, pixels.
  num_features: int  # Of a photograph, at most.
  feature_threads: int
  match_threads: int
  mapping_threads: int


def image_pairs(count: int, *, exhaustive: bool) -> Iterator[tuple[int, int]]:
  """Yields the pairs of photographs to match, as indices `i < j`.

  Args:
    count: of photographs.
    exhaustive: all pairs; otherwise those near in the order, at distances that
      double from there on, and each photograph with `_NUM_ANCHORS` others.
  """
  anchors = set(np.linspace(0, count - 1, _NUM_ANCHORS).astype(int).tolist())
  for j in range(count):
    for i in range(j):
      near = j - i <= _OVERLAP
      doubled = (j - i) & (j - i - 1) == 0
      if exhaustive or near or doubled or i in anchors or j in anchors:
        yield i, j


def measure_turn(rotations: np.ndarray) -> float:
  """Measures whether views turn enough to tell their principal point.

  A principal point moved by `f * u` shears the camera: `K` becomes
  `K (I + u z^T)`, with `u` in the image plane and `z` the optical axis. What a
  rotation of the camera does not undo is the symmetric part of `u z^T`; if that
  is the same in the axes of the world for all views, then a world sheared by it
  looks the same, and the photographs do not determine `u`. The measure is the
  standard deviation of that part over the views, in units of its norm, for the
  `u` for which it is smallest.

  Args:
    rotations: `[N, 3, 3]`, from world to camera.

  Returns:
    0 if all views have equal axes, at most 1. For small angles about the
    angle, in radians, by which views differ.
  """
  x, y, z = np.moveaxis(rotations, 1, 0)
  means = [
    np.mean(u[:, :, None] * z[:, None] + z[:, :, None] * u[:, None], axis=0)
    for u in (x, y)
  ]
  gram = np.einsum('aij,bij->ab', means, means) / 2.0
  return float(np.sqrt(max(0.0, 1.0 - np.linalg.eigvalsh(gram)[-1])))


def reconstruct(settings: Settings, send: Send) -> dict[str, Any]:
  """Finds features, matches them, and reconstructs cameras and points.

  Args:
    settings: see `Settings`.
    send: receives the stages as they begin and advance.

  Returns:
    What was found, of the model with the most images: `registered` and
    `model_sizes` and, if there is a model, what `describe` returns. The model
    is written.
  """
  import pycolmap

  pycolmap.logging.minloglevel = _LOG_ERRORS_ONLY
  pycolmap.set_random_seed(_SEED)
  database = pathlib.Path(settings['work']) / 'database.db'
  _import_images(pycolmap, settings, database)
  _extract(pycolmap, settings, database, send)
  _match(pycolmap, settings, database, send)
  models = _map(pycolmap, settings, database, send)
  sizes = [model.num_reg_images() for model in models]
  if not models:
    return {'registered': [], 'model_sizes': []}
  best = models[sizes.index(max(sizes))]
  send({'stage': 'adjustment', 'total': 1})
  best, free = free_principal_points(
    pycolmap, best, settings['mapping_threads']
  )
  send({'done': 1})
  registered = sorted(best.images[i].name for i in best.reg_image_ids())
  for image in best.images.values():
    image.name = settings['final_names'][image.name]
  best.write(settings['output'])
  return {
    'registered': registered,
    'model_sizes': sizes,
    **describe(best, free),
  }


def _import_images(
  pycolmap: Any, settings: Settings, database: pathlib.Path
) -> None:
  """Makes a camera for each group; its focal length is from EXIF, if there."""
  pycolmap.Database.open(str(database)).close()
  for group in settings['groups']:
    pycolmap.import_images(
      str(database),
      settings['images'],
      pycolmap.CameraMode.SINGLE,
      group['names'],
      pycolmap.ImageReaderOptions({'camera_model': group['model']}),
    )


def _extract(
  pycolmap: Any, settings: Settings, database: pathlib.Path, send: Send
) -> None:
  options = pycolmap.FeatureExtractionOptions()
  options.max_image_size = settings['max_size']
  options.num_threads = settings['feature_threads']
  options.sift.max_num_features = settings['num_features']
  names = _all_names(settings)
  masked = [name for name in names if name in set(settings['masked'])]
  plain = [name for name in names if name not in set(masked)]
  send({'stage': 'features', 'total': len(names)})
  done = 0
  for some_names, masks in ((masked, settings['masks']), (plain, None)):
    reader = pycolmap.ImageReaderOptions()
    if masks:
      reader.mask_path = masks
    for chunk in _chunks(some_names, 2 * settings['feature_threads']):
      pycolmap.extract_features(
        str(database),
        settings['images'],
        chunk,
        reader_options=reader,
        extraction_options=options,
        device=pycolmap.Device.cpu,
      )
      done += len(chunk)
      send({'done': done})


def _match(
  pycolmap: Any, settings: Settings, database: pathlib.Path, send: Send
) -> None:
  matching = pycolmap.FeatureMatchingOptions()
  matching.num_threads = settings['match_threads']
  verification = pycolmap.TwoViewGeometryOptions()
  verification.ransac.random_seed = _SEED
  list_of_pairs = pathlib.Path(settings['work']) / 'pairs.txt'
  pairing = pycolmap.ImportedPairingOptions()
  pairing.match_list_path = str(list_of_pairs)
  names = sorted(_all_names(settings))
  pairs = list(image_pairs(len(names), exhaustive=settings['exhaustive']))
  send({'stage': 'matching', 'total': len(pairs)})
  done = 0
  for chunk in _chunks(pairs, _PAIRS_AT_ONCE):
    list_of_pairs.write_text(
      ''.join(f'{names[i]} {names[j]}\n' for i, j in chunk)
    )
    pycolmap.match_image_pairs(
      str(database), matching, pairing, verification, pycolmap.Device.cpu
    )
    done += len(chunk)
    send({'done': done})


def _map(
  pycolmap: Any, settings: Settings, database: pathlib.Path, send: Send
) -> list[Any]:
  """Returns the models, several if the photographs fall into parts."""
  options = pycolmap.IncrementalPipelineOptions()
  options.min_model_size = _MIN_MODEL_IMAGES
  options.num_threads = settings['mapping_threads']
  options.mapper.num_threads = settings['mapping_threads']
  for part in (options, options.mapper, options.triangulation):
    part.random_seed = _SEED
  folder = pathlib.Path(settings['work']) / 'models'
  folder.mkdir()
  total = len(_all_names(settings))
  send({'stage': 'mapping', 'total': total})
  done = itertools.count(3)  # Images of a model, from its first pair on.

  def start() -> None:
    nonlocal done
    done = itertools.count(3)
    send({'done': 2})

  models = pycolmap.incremental_mapping(
    str(database),
    settings['images'],
    str(folder),
    options,
    initial_image_pair_callback=start,
    next_image_callback=lambda: send({'done': min(next(done), total)}),
  )
  return [models[index] for index in sorted(models)]


def free_principal_points(
  pycolmap: Any, model: Any, num_threads: int
) -> tuple[Any, set[int]]:
  """Adjusts a model with the principal points free that views determine.

  The mapper holds them at the centers of the images. They are free for cameras
  of at least `_MIN_IMAGES_TO_FREE` images whose views turn, see
  `measure_turn`; a camera whose principal point then moves by more than
  `_MAX_SHIFT` of a side keeps the old one.

  Args:
    pycolmap: the module.
    model: a `pycolmap.Reconstruction`; not changed.
    num_threads: of the adjustment.

  Returns:
    The model, or an adjusted copy of it, and the cameras that were free.
  """
  rotations: dict[int, list[np.ndarray]] = {}
  for number in model.reg_image_ids():
    image = model.images[number]
    rotation = image.cam_from_world().rotation.matrix()
    rotations.setdefault(image.camera_id, []).append(rotation)
  free = {
    camera
    for camera, matrices in rotations.items()
    if len(matrices) >= _MIN_IMAGES_TO_FREE
    and measure_turn(np.array(matrices)) >= _MIN_TURN
  }
  while free:
    adjusted = _adjust(pycolmap, model, rotations.keys() - free, num_threads)
    if adjusted is None:
      break
    moved = {number for number in free if _shift(adjusted, number) > _MAX_SHIFT}
    if not moved:
      return adjusted, free
    free -= moved
  return model, set()


def _adjust(
  pycolmap: Any, model: Any, fixed: set[int], num_threads: int
) -> Any | None:
  """Returns an adjusted copy of a model; None if the solver fails.

  The intrinsics of `fixed` cameras stay as they are.
  """
  adjusted = copy.deepcopy(model)
  config = pycolmap.BundleAdjustmentConfig()
  for image in adjusted.reg_image_ids():
    config.add_image(image)
  for camera in fixed:
    config.set_constant_cam_intrinsics(camera)
  config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
  options = pycolmap.BundleAdjustmentOptions()
  options.refine_principal_point = True
  options.print_summary = False
  options.ceres.solver_options.num_threads = num_threads
  adjuster = pycolmap.create_default_bundle_adjuster(options, config, adjusted)
  if not adjuster.solve().is_solution_usable():
    return None
  adjusted.update_point_3d_errors()
  return adjusted


def _shift(model: Any, number: int) -> float:
  """Returns how far a principal point is from the center, in sides."""
  camera = model.cameras[number]
  return max(
    abs(camera.principal_point_x / camera.width - 0.5),
    abs(camera.principal_point_y / camera.height - 0.5),
  )


def describe(model: Any, free: set[int]) -> dict[str, Any]:
  """Returns what the report says of a model."""
  images: dict[int, int] = {}
  for number in model.reg_image_ids():
    camera = model.images[number].camera_id
    images[camera] = images.get(camera, 0) + 1
  return {
    'reprojection_error': model.compute_mean_reprojection_error(),
    'num_points': model.num_points3D(),
    'cameras': [
      {
        'model': model.cameras[number].model.name,
        'width': model.cameras[number].width,
        'height': model.cameras[number].height,
        'focal_length': model.cameras[number].mean_focal_length(),
        'parameters': model.cameras[number].params.tolist(),
        'principal_point': 'adjusted' if number in free else 'centered',
        'focal_length_from_exif': model.cameras[number].has_prior_focal_length,
        'images': images[number],
      }
      for number in sorted(images)
    ],
  }


def _all_names(settings: Settings) -> list[str]:
  return [name for group in settings['groups'] for name in group['names']]


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
  for start in range(0, len(items), size):
    yield list(items[start : start + size])


def _exit_with_parent() -> None:
  """Ends this process when its standard input closes: the parent is gone."""
  sys.stdin.read()
  os._exit(1)


def main() -> None:
  """Reads settings, reconstructs, and sends the result."""
  output = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)  # Whatever else is printed.
  settings = json.loads(sys.stdin.readline())
  threading.Thread(target=_exit_with_parent, daemon=True).start()

  def send(message: dict[str, Any]) -> None:
    print(json.dumps(message), file=output, flush=True)

  send({'result': reconstruct(settings, send)})
  output.flush()
  os._exit(0)  # The thread still waits.


if __name__ == '__main__':
  main()
