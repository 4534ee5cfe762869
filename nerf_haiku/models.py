"""A trained model: opened from the folder of its run, queried and rendered.

  model = models.open_run('runs/lego')
  image = model.render(cameras.take(model.scene.test.cameras, [0]))
  density, rgb = model.query(points, viewdirs)

No config, no flag and no data set is needed: a run keeps a record of its model
(`records`) and the cameras of its scene (`scene_files`). Points and cameras are
in the data set's coordinates, whatever the field's own space is.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import (
  arrays,
  cameras,
  checkpoints,
  contraction,
  devices,
  errors,
  image_rendering,
  occupancy_grid,
  records,
  scene_bounds,
  scene_files,
  scenes,
  similarity,
  volume,
)
from nerf_haiku.renderers import base

# The files of a run.
RECORD = 'model.json'
SCENE = 'scene.json'
CHECKPOINTS = 'checkpoints'

# Activations of a layer that stay in a CPU's cache: a sweep over microbatches
# had its best near this for networks 64 to 256 wide.
CACHED_ACTIVATIONS = 3 << 18
# Activations of a layer when an accelerator renders: 0.5 GB.
_RENDERED_ACTIVATIONS = 1 << 27
# Points that are queried together.
_BLOCK = 1 << 14

# (params, points [N, 3], viewdirs [N, 3]) -> (density [N], rgb [N, 3])
_Query = Callable[
  [hk.Params, arrays.Array, arrays.Array], tuple[jax.Array, jax.Array]
]


def open_run(
  model_dir: str | os.PathLike[str], step: int | None = None
) -> 'Model':
  """Opens the model that a run has trained.

  Args:
    model_dir: the folder of the run.
    step: of the checkpoint; None: the newest that is not damaged.

  Raises:
    DataError: if the folder holds no run, or one that is damaged.
    UserError: if there is no such checkpoint.
  """
  folder = pathlib.Path(model_dir)
  record = records.read(folder / RECORD)
  scene = scene_files.read(folder / SCENE)
  renderer = records.make_renderer(record)
  template = jax.eval_shape(renderer.init, jax.random.key(0))
  try:
    with checkpoints.Checkpoints(folder / CHECKPOINTS) as existing:
      variables, info = existing.read(template, step)
  except FileNotFoundError as error:
    raise errors.UserError(str(error)) from error
  return make_model(record, scene, variables, info.step)


def make_model(
  record: records.Record,
  scene: scenes.Scene,
  variables: base.Variables,
  step: int = 0,
) -> 'Model':
  """Makes a model from its parts.

  Args:
    record: of the field and the renderer.
    scene: whose images are not needed.
    variables: of one device, or of the host.
    step: of the variables.
  """
  renderer = records.make_renderer(record)
  return Model(
    record=record,
    scene=scene,
    renderer=renderer,
    variables=variables,
    step=step,
    _functions=_make_functions(record, scene, renderer),
  )


@dataclasses.dataclass(frozen=True)
class _Functions:
  """What is compiled once for all parameters."""

  render_strips: image_rendering.RenderStrips
  query: _Query  # of the data set's coordinates.
  query_field: _Query  # of the field's own space.
  gradient: Callable[[hk.Params, arrays.Array], jax.Array]  # of raw densities.


@dataclasses.dataclass(frozen=True)
class Model:
  """A field with its renderer and its scene.

  Attributes:
    record: plain values of the field and the renderer.
    scene: its cameras and bounds; images only if it was made with them.
    renderer: renders rays.
    variables: parameters and renderer state, of one device or the host.
    step: of the training that they come from.
  """

  record: records.Record
  scene: scenes.Scene
  renderer: records.Renderer
  variables: base.Variables
  step: int
  _functions: _Functions

  def replace(self, variables: base.Variables, step: int) -> 'Model':
    """Returns the model with other variables; nothing is compiled again."""
    return dataclasses.replace(self, variables=variables, step=step)

  def render(self, camera: cameras.Cameras) -> image_rendering.RenderedImage:
    """Renders the image of a camera.

    Args:
      camera: one camera, of any size; none costs another compilation, except
        the first that has a distorted lens.

    Returns:
      Images `[H, W, ...]`. The depth is the sum of weight times depth, scene
      units: over the opacity it is the expected depth.
    """
    render_image = image_rendering.assemble_strips(
      self._functions.render_strips
    )
    return render_image(self._replicated, camera, 0)

  def render_strips(
    self, camera: cameras.Cameras, crop: np.ndarray | None = None
  ) -> Iterator[image_rendering.RenderedImage]:
    """Renders the image of a camera piece by piece.

    Args:
      camera: one camera.
      crop: corners `[2, 3]` of a box in which alone something is seen, in the
        coordinates that the scene's similarity moves to; not in device
        coordinates. Another box costs no other compilation.

    Yields:
      Arrays `[P, ...]` of the next pixels, row by row. Whoever stops to iterate
      stops the rendering.
    """
    return self._functions.render_strips(self._replicated, camera, 0, crop=crop)

  def query(
    self, points: np.ndarray, viewdirs: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Queries the field in the data set's coordinates.

    Args:
      points: `[..., 3]` scene units.
      viewdirs: `[..., 3]` unit vectors away from the eye; they broadcast.

    Returns:
      Densities `[...]` per scene unit along the viewing direction, and colors
      `[..., 3]` in [0, 1]. In normalized device coordinates what is behind the
      near plane has a density of 0.
    """
    moved, turned = points, viewdirs
    if self.scene.similarity is not None:
      moved = similarity.move_points(self.scene.similarity, points)
      turned = np.asarray(viewdirs) @ self.scene.similarity.rotation.T
    return self._in_blocks(self._functions.query, moved, turned)

  def query_field(
    self, points: np.ndarray, viewdirs: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Queries the field in its own space, see `to_field`.

    Args:
      points: `[..., 3]` in the field's own space.
      viewdirs: `[..., 3]` unit vectors, turned as the scene's similarity does;
        they broadcast.

    Returns:
      Densities `[...]` per unit of that space, and colors `[..., 3]`.
    """
    return self._in_blocks(self._functions.query_field, points, viewdirs)

  def normals(self, points: np.ndarray) -> np.ndarray:
    """Returns unit vectors in which the density falls most.

    Args:
      points: `[..., 3]` scene units.

    Returns:
      `[..., 3]`; 0 where the density is constant.
    """
    moved, rotation = np.asarray(points), np.eye(3)
    if self.scene.similarity is not None:
      moved = similarity.move_points(self.scene.similarity, points)
      rotation = self.scene.similarity.rotation
    flat = moved.reshape(-1, 3).astype(np.float32)
    blocks = (
      self._functions.gradient(self._params, block)
      for block in _pad_to_blocks(flat)
    )
    gradient = np.concatenate([np.asarray(x) for x in blocks])[: len(flat)]
    length = np.linalg.norm(gradient, axis=-1, keepdims=True)
    normals = -gradient / np.where(length > 0, length, 1.0) @ rotation
    return normals.reshape(moved.shape)

  def to_field(self, points: np.ndarray) -> np.ndarray:
    """Moves points `[..., 3]` to the field's own space.

    That is the data set's, moved by the scene's similarity where there is one;
    normalized device coordinates, or contracted space, where the scene has it.
    """
    if self.scene.similarity is not None:
      points = similarity.move_points(self.scene.similarity, points)
    if self.scene.ndc is not None:
      return np.asarray(cameras.points_to_ndc(points, self.scene.ndc))
    if self.scene.contracted:
      return np.asarray(contraction.contract(points))
    return points

  def from_field(self, points: np.ndarray) -> np.ndarray:
    """Moves points `[..., 3]` back from the field's own space."""
    if self.scene.ndc is not None:
      points = np.asarray(cameras.points_from_ndc(points, self.scene.ndc))
    if self.scene.contracted:
      points = np.asarray(contraction.expand(points))
    if self.scene.similarity is not None:
      moved_back = similarity.invert(self.scene.similarity)
      points = similarity.move_points(moved_back, points)
    return points

  @property
  def field_box(self) -> np.ndarray:
    """`[2, 3]` what the field models, in its own space.

    The paper's network has no box of its own: it is that of the scene, or
    around what its cameras see.
    """
    field = self.record['fields'][_result_name(self.record)]
    if 'box' in field:
      return np.asarray(field['box'], np.float32)
    return scene_bounds.modelled_bounds(self.scene).box

  def occupied(self, points: np.ndarray) -> np.ndarray:
    """Returns which points the renderer does not skip.

    Args:
      points: `[N, 3]` in the field's own space.

    Returns:
      `[N]` bool; all are true where the renderer keeps no grid.
    """
    grid = self.variables.state
    if not isinstance(grid, occupancy_grid.Grid):
      return np.ones(len(points), np.bool_)
    box = np.asarray(self.record['renderer']['march']['box'], np.float32)
    return np.asarray(
      occupancy_grid.is_occupied(grid, points.astype(np.float32), box)
    )

  @functools.cached_property
  def _replicated(self) -> base.Variables:
    replicated: base.Variables = devices.replicate(self.variables)
    return replicated

  @functools.cached_property
  def _params(self) -> hk.Params:
    params = self.variables.params[_result_name(self.record)]
    on_device: hk.Params = jax.tree.map(jnp.asarray, params)
    return on_device

  def _in_blocks(
    self, query: _Query, points: np.ndarray, viewdirs: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    points, viewdirs = np.broadcast_arrays(points, viewdirs)
    flat, flat_viewdirs = (
      x.reshape(-1, 3).astype(np.float32) for x in (points, viewdirs)
    )
    results = [
      query(self._params, *block)
      for block in zip(
        _pad_to_blocks(flat), _pad_to_blocks(flat_viewdirs), strict=True
      )
    ]
    density, rgb = (
      np.concatenate([np.asarray(x) for x in parts])[: len(flat)]
      for parts in zip(*results, strict=True)
    )
    return density.reshape(points.shape[:-1]), rgb.reshape(points.shape)


def make_cast_fn(
  scene: scenes.Scene, *, pixel_center: bool
) -> image_rendering.CastFn:
  """Returns a function of moved cameras, indices and pixels that casts rays."""
  return functools.partial(
    cameras.cast,
    near=scene.near,
    far=scene.far,
    box=scene.box,
    pixel_center=pixel_center,
  )


def make_render_strips(
  record: records.Record,
  scene: scenes.Scene,
  renderer: records.Renderer,
  *,
  rays_per_call: int = 0,
  chunk: int = 0,
  network: int = -1,
) -> image_rendering.RenderStrips:
  """Makes what renders cameras of a scene, in the data set's coordinates.

  Args:
    record: of the model.
    scene: its bounds, and how it was moved.
    renderer: renders rays.
    rays_per_call: see `image_rendering.make_render_strips`; 0: one chunk, so
      that all images are computed in pieces of one size.
    chunk: rays that are rendered at a time; 0: what fits the device.
    network: which rendering: the last is the result, 0 the coarse one.
  """
  activations = _RENDERED_ACTIVATIONS
  if devices.are_cpus():
    activations = CACHED_ACTIVATIONS
  chunk = chunk or records.rays_that_fit(record, activations)
  render_strips = image_rendering.make_render_strips(
    renderer,
    make_cast_fn(scene, pixel_center=record['pixel_center']),
    rays_per_call=rays_per_call or chunk,
    chunk=chunk,
    ndc=scene.ndc,
    network=network,
  )
  move = functools.partial(similarity.move_cameras, scene.similarity)

  def render_moved(
    variables: base.Variables,
    cameras_: cameras.Cameras,
    index: int,
    viewdir_camera: cameras.Cameras | None = None,
    crop: arrays.Array | None = None,
  ) -> Iterator[image_rendering.RenderedImage]:
    # Only this one: a path may have thousands.
    camera = move(cameras.take(cameras_, [index]))
    viewdirs = None if viewdir_camera is None else move(viewdir_camera)
    return render_strips(variables, camera, 0, viewdirs, crop)

  return render_moved


def _make_functions(
  record: records.Record, scene: scenes.Scene, renderer: records.Renderer
) -> _Functions:
  settings = record['renderer']
  activation = volume.DENSITY_ACTIVATIONS[settings['density_activation']]
  field = records.make_field(
    record['fields'][_result_name(record)], contracted=scene.contracted
  )
  ndc = scene.ndc
  units = similarity.field_units(scene.similarity)

  def raw(params: hk.Params, points: jax.Array) -> jax.Array:
    if ndc is not None:
      points = cameras.points_to_ndc(points, ndc)
    return jnp.sum(field.apply(params, points, jnp.zeros_like(points))[0])

  def query(
    params: hk.Params, points: jax.Array, viewdirs: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    if ndc is None:
      density, rgb = field.apply(params, points, viewdirs)
      density = units * activation(density)
      if scene.contracted:
        density *= contraction.density_factor(points)
      return density, rgb
    is_ahead = points[:, 2] <= -ndc.near
    # How long a unit of the viewing direction is in device coordinates.
    points, lengths = jax.jvp(
      lambda x: cameras.points_to_ndc(x, ndc), (points,), (viewdirs,)
    )
    density, rgb = field.apply(params, points, viewdirs)
    density = activation(density) * jnp.linalg.norm(lengths, axis=-1)
    return jnp.where(is_ahead, density, 0.0), rgb

  def query_field(
    params: hk.Params, points: jax.Array, viewdirs: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    if scene.contracted:
      points = contraction.expand(points)
    density, rgb = field.apply(params, points, viewdirs)
    return activation(density), rgb

  return _Functions(
    render_strips=make_render_strips(record, scene, renderer),
    query=jax.jit(query),
    query_field=jax.jit(query_field),
    gradient=jax.jit(jax.grad(raw, argnums=1)),
  )


def _result_name(record: records.Record) -> str:
  """Returns the name of the field whose rendering is the result."""
  *_, name = record['fields']
  return str(name)


def _pad_to_blocks(points: np.ndarray) -> Iterator[np.ndarray]:
  """Yields points `[N, 3]` in blocks of one size; at least one block."""
  for start in range(0, max(len(points), 1), _BLOCK):
    block = points[start : start + _BLOCK]
    yield np.pad(block, ((0, _BLOCK - len(block)), (0, 0)))
