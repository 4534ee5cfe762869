"""People's own captures: photographs with cameras that programs computed.

The readers `transforms` (instant-ngp and nerfstudio) and `colmap` each return a
`Capture`; what is common to both is done here.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
from nerf_haiku.datasets import (
  checks,
  image_files,
  photo_files,
  photo_masks,
  scene_folders,
)
from nerf_haiku.datasets import splits as splits_lib
from nerf_haiku.io import messages, safe_reading

SPLITS = ('train', 'val', 'test')


class Capture(NamedTuple):
  """`N` photographs, their cameras, and `P` points of surfaces."""

  folder: pathlib.Path  # of the capture; below it are all its files.
  source: pathlib.Path  # the file or folder of the cameras, for messages.
  names: tuple[str, ...]  # of the photographs, below the folder; all differ.
  photos: photo_files.Photos  # `N` files.
  camera_to_world: np.ndarray  # [N, 3, 4] float64, OpenGL's axes, scene units.
  # [N, 4] float64 fx, fy, cx, cy in the cameras' pixels.
  intrinsics: np.ndarray
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


class Reader(NamedTuple):
  """Reads the captures of one kind of file."""

  required_file: str  # what a capture holds, for messages.
  is_scene: Callable[[pathlib.Path], bool]  # whether a folder is a capture.
  # Reads the capture of a folder, for a `down_factor`.
  read: Callable[[pathlib.Path, int], Capture]


@safe_reading.wrap_os_errors()
def load(
  reader: Reader,
  data_dir: str,
  shape: str,
  *,
  down_factor: int,
  num_poses: int,
  holdout: int = 8,
  contracted: bool = False,
  near: float | None = None,
  far: float | None = None,
  box: checks.Box = None,
) -> scenes.Scene:
  """Loads a scene, see `make_scene`.

  Args:
    reader: reads the capture; `transforms.load` and `colmap.load` have theirs.
    data_dir: a capture; or holds a folder `shape` that is one.
    shape: name of the scene, or ''.
    down_factor: images are those of a folder such as `images_4`, or else
      downscaled by it. 0: such that the longer side is at most
      `image_files.MAX_SIDE`.
    num_poses: see `make_scene`, also for all others.
    holdout: as there.
    contracted: as there.
    near: as there.
    far: as there.
    box: as there; without it, a bounded scene is in the box that the files
      have (`aabb_scale` of instant-ngp).

  Raises:
    DataError: if a file is missing or cannot be used.
    UserError: if a setting is out of range.
  """
  checks.check_settings(
    # 0 has a meaning here.
    down_factor=1 if _is_zero(down_factor) else down_factor,
    holdout=2 if _is_zero(holdout) else holdout,
    num_poses=num_poses,
    near=near,
    far=far,
  )
  folder, notices = scene_folders.find_scene(
    data_dir,
    shape,
    collection='',
    is_scene=reader.is_scene,
    required_file=reader.required_file,
  )
  capture = reader.read(folder, down_factor)
  return make_scene(
    capture._replace(notices=(*notices, *capture.notices)),
    num_poses=num_poses,
    holdout=holdout,
    contracted=contracted,
    near=near,
    far=far,
    box=box,
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
  corners = _parse_box(box, contracted)
  capture, notices = _prepare(capture)
  index, split_notices = _split(capture, holdout)
  parts = [capture.take(x) for x in index]
  files = image_files.open_splits(
    [[x for x in part.photos.paths if x] for part in parts],
    down_factor=capture.photos.down_factor,
  )
  split_cameras = [_cameras(*x) for x in zip(parts, files, strict=True)]
  if corners is None and not contracted:
    corners = capture.box
  placed = placement.place(
    cameras.concatenate(split_cameras),
    capture.points,
    contracted=contracted,
    box=corners,
  )
  placed = _with_bounds(placed, near, far)
  splits, mask_notices = _load_splits(parts, files, split_cameras, placed)
  return scenes.Scene(
    train=splits[0],
    val=splits[1],
    test=splits[-1],
    near=placed.near,
    far=placed.far,
    box=placed.box,
    path=_video_path(placed.similarity, split_cameras[0], num_poses),
    notices=(
      *notices,
      *split_notices,
      *mask_notices,
      *image_files.notices(files, capture.folder),
    ),
    similarity=placed.similarity,
    contracted=contracted,
    points=capture.points if len(capture.points) else None,
  )


def _parse_box(box: checks.Box, contracted: bool) -> np.ndarray | None:
  """Returns the corners `[2, 3]` float64 of a box, None for None."""
  if checks.parse_box(box) is None:
    return None
  corners = np.array(box, np.float64)
  if contracted:
    raise errors.UserError(
      f'box={corners.tolist()}: must be none where space is contracted: it is '
      'unbounded then.'
    )
  return corners


def _load_splits(
  parts: Sequence[Capture],
  files: Sequence[image_files.Files],
  split_cameras: Sequence[cameras.Cameras],
  placed: placement.Placement,
) -> tuple[list[scenes.Split[Any]], tuple[str, ...]]:
  """Decodes photographs and masks; returns notices about the masks, too."""
  masks = [
    photo_masks.load(part.masks, x)
    for part, x in zip(parts, files, strict=True)
  ]
  sources = [
    _source(placed, cams) + mask.digest
    for cams, mask in zip(split_cameras, masks, strict=True)
  ]
  train, others = image_files.load_splits(files, split_cameras, sources)
  loaded: list[scenes.Split[Any]] = [train, *others]
  splits = [
    split._replace(names=part.names, masks=mask.images)
    for split, part, mask in zip(loaded, parts, masks, strict=True)
  ]
  return splits, photo_masks.notices([mask for mask in masks if mask.images])


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
  same = photo_files.have_same_shape(photos, capture.sizes)
  turned = photo_files.have_same_shape(photos[:, ::-1], capture.sizes)
  for i in np.flatnonzero(~same):
    (height, width), (h, w) = photos[i], capture.sizes[i]
    if turned[i]:
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


def _with_bounds(
  placed: placement.Placement, near: float | None, far: float | None
) -> placement.Placement:
  """Returns a placement with the near and far that are given."""
  near, far = near or placed.near, far or placed.far
  if not near < far:
    raise errors.UserError(
      f'near={near:.4g} must be less than far={far:.4g} (what the config does '
      'not set is from the capture): set config.near and config.far.'
    )
  return placed._replace(near=near, far=far)


def _source(placed: placement.Placement, cams: cameras.Cameras) -> bytes:
  """Returns what the rays of a split depend on, for a digest."""
  # Rounded: libraries of other machines may differ in the last digits.
  moved = similarity.move_rigidly(placed.similarity, cams)
  bounds = np.array([placed.similarity.scale, placed.near, placed.far])
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
