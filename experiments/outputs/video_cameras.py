"""The cameras of a video."""

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
  """Returns the cameras of a video.

  Args:
    scene: the scene to render.
    video_set: one of `SETS`: the scene's own path (`render`, `poses`), or the
      cameras of a split.
    path: one of `PATHS`: these cameras as they are, or a path of `num_poses`
      through them, around the point they look at, or on a spiral among them.
    num_poses: number of cameras of a new path.
    render_factor: height and width are divided by it; 0 is 1.
    camera_file: cameras instead of those of the scene, see `camera_files`;
      `render_factor` does not change the sizes it gives.

  Raises:
    UserError: if there is no such path along these cameras, or their images
      would be empty.
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
    path_cameras = _along(given, scene, path, num_poses)
    _check_ndc(path_cameras, scene)
  except errors.UserError as error:
    flag = f'--cameras={camera_file}' if camera_file else f'--path={path}'
    raise errors.UserError(f'{flag}: {error}') from error
  return _reduce(path_cameras, max(render_factor, 1))


def _all(scene: scenes.Scene) -> cameras.Cameras:
  """Returns the cameras of all splits; two splits may be the same."""
  splits = [scene.train, scene.test]
  if scene.val is not scene.test:
    splits.append(scene.val)
  path_cameras = [split.cameras for split in splits]
  return cameras.Cameras(*map(np.concatenate, zip(*path_cameras, strict=True)))


def _check_ndc(path_cameras: cameras.Cameras, scene: scenes.Scene) -> None:
  """Refuses cameras outside of normalized device coordinates."""
  if scene.ndc is None:
    return
  depth = -path_cameras.camera_to_world[:, 2, 3]
  away = cameras.min_cosines(path_cameras) < cameras.MIN_COSINE
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
  given_poses = np.asarray(given.camera_to_world)
  if path == 'given':
    return given
  if path == 'interpolate':
    if len(np.unique(given.sizes, axis=0)) > 1:
      raise errors.UserError('the cameras have images of several sizes.')
    made = cameras.with_poses(
      camera_paths.interpolate(given_poses, num_poses), given
    )
    times = np.linspace(0, len(given_poses) - 1, num_poses)
    lens = [
      np.interp(times, range(len(given_poses)), x) for x in given.intrinsics.T
    ]
    return made._replace(intrinsics=np.stack(lens, axis=1).astype(np.float32))
  if path == 'circle':
    up = np.sum(given_poses[:, :, 1], axis=0)
    frame = poses.upright(poses.focus(given_poses), up)
    return cameras.with_poses(
      camera_paths.orbit(given_poses, frame, num_poses), given
    )
  spiral = camera_paths.spiral(
    given_poses, scene.near, scene.far, num_poses, flat=path == 'flat'
  )
  return cameras.with_poses(spiral, given)


def _reduce(path_cameras: cameras.Cameras, factor: int) -> cameras.Cameras:
  sizes = np.asarray(path_cameras.sizes) // factor
  if sizes.min() < 1:
    raise errors.UserError(
      f'config.render_factor: got {factor}; allowed: up to '
      f'{np.min(path_cameras.sizes)}, the shortest side of an image.'
    )
  return cameras.scale(path_cameras, sizes)


def describe_cameras(path_cameras: cameras.Cameras) -> str:
  """Returns the number and the sizes of the images."""
  return f'{len(path_cameras.sizes)} frames of {describe_sizes(path_cameras)}'


def describe_sizes(path_cameras: cameras.Cameras) -> str:
  """Returns the widths and heights of the images, the first three."""
  sizes = sorted({(int(w), int(h)) for h, w in path_cameras.sizes})
  shown = ', '.join(f'{w}x{h}' for w, h in sizes[:3])
  return shown + (f' and {len(sizes) - 3} more sizes' if len(sizes) > 3 else '')


def save_cameras(path: str, path_cameras: cameras.Cameras) -> None:
  """Writes the cameras of a video, for `--cameras`.

  Raises:
    UserError: if the file cannot be written.
  """
  try:
    camera_files.write(pathlib.Path(path).expanduser(), path_cameras)
  except OSError as error:
    raise errors.UserError(
      f'--save_path: {path} cannot be written ({error.strerror}).'
    ) from error
