"""Cameras of a video."""

import numpy as np

from nerf_haiku import (
  camera_files,
  camera_paths,
  cameras,
  errors,
  poses,
  scenes,
  similarity,
)
from nerf_haiku.io import safe_reading

SETS = ('render', 'poses', 'train', 'val', 'test')
PATHS = ('given', 'interpolate', 'circle', 'spiral', 'flat')


def choose_cameras(
  scene: scenes.Scene,
  *,
  video_set: str,
  path: str,
  num_poses: int,
  render_factor: int,
  camera_file: str | None = None,
) -> cameras.Cameras:
  """Returns the cameras of a video.

  Args:
    scene: the scene that is rendered.
    video_set: one of `SETS`: the scene's own path (`render`, `poses`), or the
      cameras of a split.
    path: one of `PATHS`: the cameras as given, or a path of `num_poses` poses
      that interpolates them, circles the point they look at, or is a spiral
      between them.
    num_poses: number of poses of a path other than `given`.
    render_factor: height and width are divided by it; 0 is 1.
    camera_file: cameras to use instead of the scene's, see `camera_files`;
      their images have the sizes given there, whatever `render_factor` is.

  Raises:
    UserError: if there is no such path for these cameras, or their images
      would be empty.
  """
  if camera_file is not None:
    given, render_factor = camera_files.read(camera_file), 1
  elif video_set in ('render', 'poses'):
    given = scene.path
    if path not in ('given', 'interpolate'):
      given = _all_cameras(scene)  # As readers do.
  else:
    given = getattr(scene, video_set).cameras
  if not len(given.sizes):
    raise errors.UserError(
      f'--render_video_set: there are no {video_set} cameras.'
    )
  try:
    chosen = _make_path(given, scene, path, num_poses)
    _check_ndc(chosen, scene)
  except errors.UserError as error:
    flag = f'--cameras={camera_file}' if camera_file else f'--path={path}'
    raise errors.UserError(f'{flag}: {error}') from error
  return _downscale(chosen, max(render_factor, 1))


def _all_cameras(scene: scenes.Scene) -> cameras.Cameras:
  """Returns the cameras of all splits; validation and test may be the same."""
  splits = [scene.train, scene.test]
  if scene.val is not scene.test:
    splits.append(scene.val)
  parts = [split.cameras for split in splits]
  return cameras.concatenate(parts)


def _check_ndc(path: cameras.Cameras, scene: scenes.Scene) -> None:
  """Refuses cameras that normalized device coordinates do not cover."""
  if scene.ndc is None:
    return
  depth = -path.camera_to_world[:, 2, 3]
  faces_away = cameras.min_cosines(path) < cameras.MIN_COSINE
  bad = np.flatnonzero(faces_away | (depth >= scene.ndc.near))
  if len(bad):
    is_away = faces_away[bad[0]]
    problem = 'does not face -z' if is_away else 'is beyond the near plane'
    raise errors.UserError(
      f'camera {bad[0]} (the first of {len(bad)}) {problem}: the run was '
      'trained in normalized device coordinates, where all cameras must face '
      '-z and none may be beyond the near plane. Choose other cameras.'
    )


def _make_path(
  given: cameras.Cameras, scene: scenes.Scene, path: str, num_poses: int
) -> cameras.Cameras:
  """Returns the cameras of a path of `PATHS` among the given ones."""
  if path == 'given':
    return given
  if path == 'interpolate':
    return _interpolate(given, scene, num_poses)
  moved = similarity.move_poses(
    scene.similarity, np.asarray(given.camera_to_world)
  )
  if path == 'circle':
    up = np.sum(moved[:, :, 1], axis=0)
    frame = poses.upright(poses.focus(moved), up)
    path_poses = camera_paths.orbit(moved, frame, num_poses)
  else:
    scale = similarity.field_units(scene.similarity)
    path_poses = camera_paths.spiral(
      moved,
      scale * scene.near,
      scale * scene.far,
      num_poses,
      flat=path == 'flat',
    )
  return _with_poses(path_poses, given, scene)


def _with_poses(
  moved: np.ndarray, given: cameras.Cameras, scene: scenes.Scene
) -> cameras.Cameras:
  """Returns cameras of poses in field units, in the scene's coordinates."""
  path = cameras.with_poses(moved, given)
  if scene.similarity is None:
    return path
  inverse = similarity.invert(scene.similarity)
  return similarity.move_rigidly(inverse, path)


def _interpolate(
  given: cameras.Cameras, scene: scenes.Scene, num_poses: int
) -> cameras.Cameras:
  """Returns a path through all cameras; intrinsics are interpolated too."""
  if len(np.unique(given.sizes, axis=0)) > 1:
    raise errors.UserError('the cameras have images of several sizes.')
  moved = similarity.move_poses(
    scene.similarity, np.asarray(given.camera_to_world)
  )
  path = _with_poses(camera_paths.interpolate(moved, num_poses), given, scene)
  count = len(moved)
  times = np.linspace(0, count - 1, num_poses)
  columns = [np.interp(times, range(count), x) for x in given.intrinsics.T]
  intrinsics = np.stack(columns, axis=1).astype(np.float32)
  return path._replace(intrinsics=intrinsics)


def _downscale(path: cameras.Cameras, factor: int) -> cameras.Cameras:
  """Returns the cameras with images that are smaller by a factor."""
  sizes = np.asarray(path.sizes) // factor
  if sizes.min() < 1:
    raise errors.UserError(
      f'config.render_factor: got {factor}; must be at most '
      f'{np.min(path.sizes)}, the shortest side of an image.'
    )
  return cameras.scale(path, sizes)


def describe_cameras(path: cameras.Cameras) -> str:
  """Returns the number of frames and their sizes, for the user."""
  return f'{len(path.sizes)} frames of {describe_sizes(path)}'


def describe_sizes(path: cameras.Cameras) -> str:
  """Returns the widths and heights of images, the first three, for the user."""
  sizes = sorted({(int(w), int(h)) for h, w in path.sizes})
  shown = ', '.join(f'{w}x{h}' for w, h in sizes[:3])
  return shown + (f' and {len(sizes) - 3} more sizes' if len(sizes) > 3 else '')


def save_cameras(file: str, path: cameras.Cameras) -> None:
  """Writes the cameras of a video to a file that `--cameras` reads.

  Raises:
    UserError: if the file cannot be written.
  """
  try:
    camera_files.write(safe_reading.expand_user(file), path)
  except OSError as error:
    raise errors.UserError(
      f'--save_path: {file} cannot be written ({error.strerror}).'
    ) from error
