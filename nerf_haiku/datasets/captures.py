"""People's own captures: photographs with cameras that programs computed.

The readers `transforms` (instant-ngp and nerfstudio) and `colmap` each return a
`Capture`; what is common to both is done here.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nerf_haiku import (
  camera_checks,
  camera_paths,
  cameras,
  errors,
  placement,
  scenes,
  similarity,
)
from nerf_haiku.datasets import checks, image_files, photo_files, photo_masks
from nerf_haiku.datasets import splits as splits_lib
from nerf_haiku.io import messages, safe_reading

SPLITS = ('train', 'val', 'test')
# Between the ratios of both sides of a photograph to those of its camera,
# relative; and pixels that downscaling may have rounded.
_RATIO_TOLERANCE, _ROUNDED = 0.01, 1.0


class Capture(NamedTuple):
  """`N` photographs, their cameras, and `P` points of surfaces."""

  folder: pathlib.Path  # of the capture; below it are all its files.
  source: pathlib.Path  # the file or folder of the cameras, for messages.
  names: tuple[str, ...]  # of the photographs, below the folder; all differ.
  photos: photo_files.Photos  # `N` files.
  camera_to_world: np.ndarray  # [N, 3, 4] float64, OpenGL's axes, scene units.
  intrinsics: (
    np.ndarray
  )  # [N, 4] float64 fx, fy, cx, cy in the cameras' pixels.
  distortion: np.ndarray  # [N, 6] float64, see `lenses`.
  fisheye: np.ndarray  # [N] bool.
  sizes: np.ndarray  # [N, 2] int32, height and width of the cameras, pixels.
  points: np.ndarray  # [P, 3] float64, scene units; P may be 0.
  masks: tuple[pathlib.Path | None, ...]  # `N` files; None: all pixels count.
  # Names of the photographs of each of `SPLITS`; empty: the files do not say.
  lists: Mapping[str, tuple[str, ...]]
  box: np.ndarray | None  # [2, 3] corners that a bounded scene has.
  notices: tuple[str, ...]  # for the user.

  def take(self, index: Sequence[int]) -> 'Capture':
    """Returns the capture with some of its photographs."""
    which = list(index)
    paths = tuple(self.photos.paths[i] for i in which)
    return self._replace(
      names=tuple(self.names[i] for i in which),
      photos=self.photos._replace(paths=paths),
      camera_to_world=self.camera_to_world[which],
      intrinsics=self.intrinsics[which],
      distortion=self.distortion[which],
      fisheye=self.fisheye[which],
      sizes=self.sizes[which],
      masks=tuple(self.masks[i] for i in which),
    )


def check_settings(
  *,
  down_factor: int,
  num_poses: int,
  holdout: int,
  near: float | None,
  far: float | None,
) -> None:
  """Checks the settings of the readers of captures.

  Raises:
    UserError: names the setting, its value and what is allowed.
  """
  checks.check_settings(
    # 0 has a meaning here.
    down_factor=1 if _is_zero(down_factor) else down_factor,
    holdout=2 if _is_zero(holdout) else holdout,
    num_poses=num_poses,
    near=near,
    far=far,
  )


def _is_zero(value: object) -> bool:
  return type(value) is int and value == 0


def make_scene(
  capture: Capture,
  *,
  num_poses: int,
  holdout: int,
  contracted: bool,
  near: float | None = None,
  far: float | None = None,
  box: checks.Box = None,
) -> scenes.Scene:
  """Makes a scene; checks and decodes every photograph that is used.

  Cameras, points, near, far and depths are in the capture's own coordinates and
  units. The field's follow from the cameras and points, see `placement`.

  Args:
    capture: from a reader.
    num_poses: cameras on the path of the rendered video.
    holdout: without lists in the files, every `holdout`-th photograph in the
      order of names is for validation and testing; 0: only the one nearest to
      the cameras' mean position.
    contracted: whether space is contracted, and thus unbounded.
    near: where rays begin, scene units along the optical axis; None: by the
      points, or else by the cameras.
    far: where rays end; None: with the scene, or far away.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None.

  Raises:
    DataError: if a file is missing or cannot be used.
    UserError: if a setting does not fit.
  """
  corners = checks.parse_box(box)
  if contracted and corners is not None:
    raise errors.UserError(
      f'box={corners.tolist()}: must be none where space is contracted: it is '
      'unbounded then.'
    )
  capture, notices = _prepare(capture)
  index, split_notices = _split(capture, holdout)
  parts = [capture.take(x) for x in index]
  files = image_files.open_splits(
    [[x for x in part.photos.paths if x] for part in parts],
    down_factor=capture.photos.down_factor,
  )
  split_cameras = [_cameras(*x) for x in zip(parts, files, strict=True)]
  if corners is not None:
    corners = np.asarray(box, np.float64)
  elif not contracted:
    corners = capture.box
  placed = placement.place(
    cameras.concatenate(split_cameras),
    capture.points,
    contracted=contracted,
    box=corners,
  )
  near, far = near or placed.near, far or placed.far
  _check_bounds(near, far)
  masks = [
    photo_masks.load(part.masks, x)
    for part, x in zip(parts, files, strict=True)
  ]
  sources = [
    _source(placed, near, far, cams) + mask.digest
    for cams, mask in zip(split_cameras, masks, strict=True)
  ]
  train, others = image_files.load_splits(files, split_cameras, sources)
  train = train._replace(names=parts[0].names, masks=masks[0].images)
  others = [
    split._replace(names=part.names, masks=mask.images)
    for split, part, mask in zip(others, parts[1:], masks[1:], strict=True)
  ]
  return scenes.Scene(
    train=train,
    val=others[0],
    test=others[-1],
    near=near,
    far=far,
    box=placed.box,
    path=_video_path(placed.similarity, split_cameras[0], num_poses),
    notices=(
      *notices,
      *split_notices,
      *photo_masks.notices([mask for mask in masks if mask.images]),
      *image_files.notices(files, capture.folder),
    ),
    similarity=placed.similarity,
    contracted=contracted,
    points=capture.points if len(capture.points) else None,
  )


def _prepare(capture: Capture) -> tuple[Capture, tuple[str, ...]]:
  """Sorts photographs by name, and leaves out those that are missing."""
  order = sorted(range(len(capture.names)), key=capture.names.__getitem__)
  for i in range(1, len(order)):
    if capture.names[order[i]] == capture.names[order[i - 1]]:
      raise errors.DataError(
        f'{capture.source}: {messages.shorten(capture.names[order[i]])} has '
        'two cameras: remove one.'
      )
  present = [i for i in order if capture.photos.paths[i]]
  lost = [capture.names[i] for i in order if not capture.photos.paths[i]]
  if not present:
    raise errors.DataError(_none_found(capture, lost))
  capture = capture.take(present)
  photo_files.check_inside(
    capture.folder, [x for x in (*capture.photos.paths, *capture.masks) if x]
  )
  notices = (*capture.notices, *capture.photos.notices)
  if lost:
    where = capture.source.relative_to(capture.folder)
    notices += (
      f'{len(lost)} of {len(order)} photographs of {where} are missing, and '
      f'are left out: {messages.list_names(lost)}.',
    )
  return capture, notices


def _none_found(capture: Capture, lost: Sequence[str]) -> str:
  name = str(capture.folder / lost[0])[: safe_reading.MAX_NAME_LENGTH]
  factors = sorted(
    int(path.name.rpartition('_')[2])
    for path in capture.folder.glob('*_*')
    if path.is_dir() and path.name.rpartition('_')[2].isdecimal()
  )
  cure = 'put the photographs there'
  if factors:
    cure += f', or set down_factor={factors[0]} to use smaller ones'
  return (
    f'{capture.source}: none of its {len(lost)} photographs exists; the first '
    f'is {name}: {cure}.'
  )


def _split(
  capture: Capture, holdout: int
) -> tuple[list[Sequence[int]], tuple[str, ...]]:
  """Returns the indices of each split, of two if two are the same."""
  count = len(capture.names)
  where = capture.source.relative_to(capture.folder)
  problem = f'{where} does not list them'
  if capture.lists:
    number = {name: i for i, name in enumerate(capture.names)}
    train, val, test = (
      [number[x] for x in capture.lists[name] if x in number] for name in SPLITS
    )
    given = [
      splits_lib.HeldOut(x or None, f'{where} lists none') for x in (val, test)
    ]
    if not train:
      raise errors.DataError(
        f'{capture.source}: lists no photograph for training that exists.'
      )
  else:
    train = list(range(count))
    given = [splits_lib.HeldOut[list[int]](None, problem)] * 2
  if not holdout and not any(x.views for x in given):
    return _hold_out_one(capture, train)
  splits = splits_lib.complete(
    train,
    *given,
    count=len(train),
    holdout=holdout or 2,
    take=lambda views, index: [views[i] for i in index],
  )
  index: list[Sequence[int]] = [splits.train, splits.val]
  if splits.test is not splits.val:
    index.append(splits.test)
  return index, splits.notices


def _hold_out_one(
  capture: Capture, train: Sequence[int]
) -> tuple[list[Sequence[int]], tuple[str, ...]]:
  if len(train) < 2:
    raise errors.UserError(
      f'{capture.source}: one photograph cannot be divided into training and '
      'validation: add photographs.'
    )
  centers = capture.camera_to_world[list(train), :, 3]
  distances = np.linalg.norm(centers - centers.mean(0), axis=-1)
  chosen = train[int(np.argmin(distances))]
  notice = (
    f'{messages.shorten(capture.names[chosen])} alone is for validation and '
    'testing, not for training (holdout=0).'
  )
  return [[i for i in train if i != chosen], [chosen]], (notice,)


def _cameras(capture: Capture, files: image_files.Files) -> cameras.Cameras:
  """Returns cameras of the photographs as they are read; poses are float64."""
  _check_shapes(capture, image_files.full_sizes(files))
  cams = cameras.Cameras(
    camera_to_world=capture.camera_to_world,
    intrinsics=capture.intrinsics.astype(np.float32),
    sizes=capture.sizes,
  )
  if capture.fisheye.any() or capture.distortion.any():
    cams = cams._replace(
      distortion=capture.distortion.astype(np.float32), fisheye=capture.fisheye
    )
    camera_checks.check_lenses(str(capture.source), cams, capture.names)
  return cameras.scale(cams, image_files.sizes(files))


def _check_shapes(capture: Capture, photos: np.ndarray) -> None:
  """Checks that photographs have the shapes of their cameras' images.

  Raises:
    DataError: names a photograph that has another one.
  """
  tolerances = _RATIO_TOLERANCE + _ROUNDED / photos.min(axis=1)
  ratios = photos / capture.sizes
  turned = photos[:, ::-1] / capture.sizes
  differ = np.abs(ratios[:, 0] / ratios[:, 1] - 1) > tolerances
  for i in np.flatnonzero(differ):
    (height, width), (h, w) = photos[i], capture.sizes[i]
    if abs(turned[i, 0] / turned[i, 1] - 1) <= tolerances[i]:
      cure = (
        'it was rotated after its camera was computed (orientation tags are '
        'not applied): rotate it back'
      )
    else:
      cure = 'it was cropped or replaced: use the photograph of that camera'
    raise errors.DataError(
      f'{capture.photos.paths[i]}: is {width}x{height} pixels, but its camera '
      f'in {capture.source} is of {w}x{h}: {cure}.'
    )


def _check_bounds(near: float, far: float) -> None:
  if not near < far:
    raise errors.UserError(
      f'near={near:.4g} must be less than far={far:.4g} (what the config does '
      'not set is from the capture): set config.near and config.far.'
    )


def _source(
  placed: placement.Placement, near: float, far: float, cams: cameras.Cameras
) -> bytes:
  """Returns what the rays of a split depend on, for a digest."""
  # Rounded: libraries of other machines may differ in the last digits.
  moved = similarity.move_rigidly(placed.similarity, cams)
  bounds = np.array([placed.similarity.scale, near, far])
  values = [bounds, *(x for x in moved if x is not None)]
  if placed.box is not None:
    values.append(placed.box)
  return b''.join(np.ravel(x).astype(np.float32).tobytes() for x in values)


def _video_path(
  moved: similarity.Similarity, cams: cameras.Cameras, num_poses: int
) -> cameras.Cameras:
  """Returns the cameras of the video, computed where positions are small."""
  pose = np.asarray(similarity.move_rigidly(moved, cams).camera_to_world)
  path = cameras.with_poses(camera_paths.through_capture(pose, num_poses), cams)
  return similarity.move_rigidly(similarity.invert(moved), path)
