"""Which cameras a video is taken with."""

import pathlib

import numpy as np

from nerf_haiku import (
  camera_files,
  camera_paths,
  cameras,
  errors,
  poses,
  scenes,
)

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
  """The cameras of a video.

  Args:
    scene: whose cameras they are, or lie among.
    video_set: of `SETS`: the scene's own path (`render`, `poses`), or the
      cameras of a split.
    path: of `PATHS`: the cameras as given, or a path of `num_poses` through
      them, around what they look at, or on a spiral among them.
    num_poses: of a path that is made.
    render_factor: sides are divided by it; 0 is 1.
    camera_file: cameras in place of those of the scene, see `camera_files`;
      their images have the sizes that it says, whatever `render_factor` is.

  Raises:
    ValueError: if no such path goes along these cameras, or their images would
      be empty.
  """
  if camera_file is not None:
    given, render_factor = camera_files.read(camera_file), 1
  elif video_set in ('render', 'poses'):
    given = scene.path
    if path not in ('given', 'interpolate'):
      given = _all(scene)  # As readers do it.
  else:
    given = getattr(scene, video_set).cameras
  if not len(given.sizes):
    raise errors.UserError(
      f'--render_video_set: there are no {video_set} cameras.'
    )
  try:
    taken = _along(given, scene, path, num_poses)
    _check_ndc(taken, scene)
  except errors.UserError as error:
    flag = f'--cameras={camera_file}' if camera_file else f'--path={path}'
    raise errors.UserError(f'{flag}: {error}') from error
  return _reduce(taken, max(render_factor, 1))


def _all(scene: scenes.Scene) -> cameras.Cameras:
  """The cameras of all splits; validation and test may be the same."""
  splits = [scene.train, scene.test]
  if scene.val is not scene.test:
    splits.append(scene.val)
  taken = [split.cameras for split in splits]
  return cameras.Cameras(*map(np.concatenate, zip(*taken, strict=True)))


def _check_ndc(taken: cameras.Cameras, scene: scenes.Scene) -> None:
  """Cameras that device coordinates have no place for are refused."""
  if scene.ndc is None:
    return
  depth = -taken.camera_to_world[:, 2, 3]
  away = cameras.min_cosines(taken) < cameras.MIN_COSINE
  bad = np.flatnonzero(away | (depth >= scene.ndc.near))
  if len(bad):
    what = 'looks aside' if away[bad[0]] else 'stands behind the near plane'
    raise errors.UserError(
      f'camera {bad[0]} (of {len(bad)} such ones) {what}: in normalised device '
      'coordinates, which the run was trained in, all must face -z. Take other '
      'cameras.'
    )


def _along(
  given: cameras.Cameras, scene: scenes.Scene, path: str, num_poses: int
) -> cameras.Cameras:
  found = np.asarray(given.camera_to_world)
  if path == 'given':
    return given
  if path == 'interpolate':
    if len(np.unique(given.sizes, axis=0)) > 1:
      raise errors.UserError('the cameras have images of several sizes.')
    made = cameras.with_poses(camera_paths.interpolate(found, num_poses), given)
    times = np.linspace(0, len(found) - 1, num_poses)
    lens = [np.interp(times, range(len(found)), x) for x in given.intrinsics.T]
    return made._replace(intrinsics=np.stack(lens, axis=1).astype(np.float32))
  if path == 'circle':
    up = np.sum(found[:, :, 1], axis=0)
    frame = poses.upright(poses.focus(found), up)
    return cameras.with_poses(
      camera_paths.orbit(found, frame, num_poses), given
    )
  spiral = camera_paths.spiral(
    found, scene.near, scene.far, num_poses, flat=path == 'flat'
  )
  return cameras.with_poses(spiral, given)


def _reduce(taken: cameras.Cameras, factor: int) -> cameras.Cameras:
  sizes = np.asarray(taken.sizes) // factor
  if sizes.min() < 1:
    raise errors.UserError(
      f'config.render_factor: got {factor}; allowed: up to '
      f'{np.min(taken.sizes)}, the shortest side of an image.'
    )
  return cameras.scale(taken, sizes)


def describe_cameras(taken: cameras.Cameras) -> str:
  """How many views of what size, for the user."""
  return f'{len(taken.sizes)} frames of {describe_sizes(taken)}'


def describe_sizes(taken: cameras.Cameras) -> str:
  """The widths and heights of their images, the first three, for the user."""
  sizes = sorted({(int(w), int(h)) for h, w in taken.sizes})
  shown = ', '.join(f'{w}x{h}' for w, h in sizes[:3])
  return shown + (f' and {len(sizes) - 3} more sizes' if len(sizes) > 3 else '')


def save_cameras(path: str, taken: cameras.Cameras) -> None:
  """Writes the cameras of a video, for `--cameras`.

  Raises:
    ValueError: if the file cannot be written.
  """
  try:
    camera_files.write(pathlib.Path(path).expanduser(), taken)
  except OSError as error:
    raise errors.UserError(
      f'--save_path: {path} cannot be written ({error.strerror}).'
    ) from error
