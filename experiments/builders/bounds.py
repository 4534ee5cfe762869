"""Near, far and box of a scene: from its cameras, or checked against them."""

import ml_collections
import numpy as np

from nerf_haiku import (
  cameras,
  contraction,
  errors,
  placement,
  poses,
  scene_bounds,
  scenes,
  similarity,
)

# A smaller fraction of rays that meet the box is reported.
_MIN_FRACTION = 0.01


def fit(config: ml_collections.ConfigDict, scene: scenes.Scene) -> scenes.Scene:
  """Replaces the bounds that the config does not set by those of the cameras.

  Raises:
    UserError: if the cameras do not look at one point, or near and far that
      result are in the wrong order.
  """
  target = _target(scene)
  if target is None or np.median(target.depths) < 0:
    raise errors.UserError(
      "config.bounds='cameras': the training cameras do not look at one point: "
      "set config.bounds='data', with config.near, config.far and config.box."
    )
  # In field units; those of the scene, if there is no similarity.
  fitted = scene_bounds.fit_bounds(_field_cameras(scene), target)
  near = config.near or fitted.near / _scale(scene)
  far = config.far or fitted.far / _scale(scene)
  _check_order(near, far)
  box = scene.box if config.box else fitted.box
  return scene._replace(near=near, far=far, box=box)


def contract(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> scenes.Scene:
  """Contracts a scene, see `contraction`.

  What the data set does not say of an unbounded scene is from its cameras: the
  similarity, and near and far where the config does not set them.
  """
  if scene.contracted:
    return scene
  fitted = similarity.from_cameras(scene.train.cameras)
  near = config.near or placement.NEAR / fitted.scale
  far = config.far or contraction.FAR / fitted.scale
  _check_order(near, far)
  return scene._replace(
    near=near, far=far, box=None, similarity=fitted, contracted=True
  )


def _check_order(near: float, far: float) -> None:
  if near >= far:
    raise errors.UserError(
      f'config.near: got {near:.4g}; must be less than far={far:.4g} (those '
      'that the config does not set are from the cameras).'
    )


def check(scene: scenes.Scene) -> list[str]:
  """Checks, before the first step, that rays meet the box.

  Returns:
    Notices for the user.

  Raises:
    UserError: if no ray meets the box between near and far.
  """
  if scene.ndc is not None:
    return []  # Rays in device coordinates cover the scene by construction.
  fraction = fraction_of_rays(scene)
  target = _target(scene)
  if fraction == 0:
    raise errors.UserError(
      f'No ray meets {_describe_bounds(scene)}. {_cure(scene, target)}'
    )
  if fraction < _MIN_FRACTION:
    problem = f'Only {fraction:.2%} of the rays meet {_describe_bounds(scene)}'
  elif target is not None and _is_missed(scene, target):
    problem = f'The rays miss what the cameras look at: {fraction:.0%} of them '
    problem += f'meet {_describe_bounds(scene)}'
  else:
    return []
  return [f'Warning: {problem}. {_cure(scene, target)}']


def fraction_of_rays(scene: scenes.Scene) -> float:
  """Returns the fraction of training rays that meet the scene's box."""
  if scene.ndc is not None or scene.box is None:
    return 1.0
  return scene_bounds.fraction_of_rays(
    _field_cameras(scene),
    scene.near * _scale(scene),
    scene.far * _scale(scene),
    scene.box,
  )


def check_restart(scene: scenes.Scene) -> None:
  """Checks that a collapsed run may learn with another seed.

  Raises:
    UserError: if hardly any ray meets the box.
  """
  fraction = fraction_of_rays(scene)
  if fraction < _MIN_FRACTION:
    target = _target(scene)
    raise errors.UserError(
      f'The run has collapsed, and another seed cannot help: {fraction:.2%} of '
      f'the rays meet {_describe_bounds(scene)}. {_cure(scene, target)}'
    )


def _target(scene: scenes.Scene) -> poses.Target | None:
  """Returns what the cameras look at, in the field's coordinates."""
  return poses.find_target(np.asarray(_field_cameras(scene).camera_to_world))


def _field_cameras(scene: scenes.Scene) -> cameras.Cameras:
  return similarity.move_rigidly(scene.similarity, scene.train.cameras)


def _scale(scene: scenes.Scene) -> float:
  return similarity.field_units(scene.similarity)


def _is_missed(scene: scenes.Scene, target: poses.Target) -> bool:
  """Returns whether most rays towards a target end before it or begin later."""
  depths = target.depths
  if np.median(depths) <= 0:
    return False  # Cameras may look outwards.
  near, far = scene.near * _scale(scene), scene.far * _scale(scene)
  outside = np.mean((depths < near) | (depths > far)) > 0.5
  if scene.box is not None:
    outside |= np.any(
      (target.point < scene.box[0]) | (target.point > scene.box[1])
    )
  return bool(outside)


def _describe_bounds(scene: scenes.Scene) -> str:
  box = ''
  if scene.box is not None:
    lower, upper = (_numbers(corner, ', ') for corner in scene.box)
    where = '' if scene.similarity is None else " in the field's coordinates"
    box = f'the box from ({lower}) to ({upper}){where} '
  return f'{box}between near={scene.near:g} and far={scene.far:g}'


def _cure(scene: scenes.Scene, target: poses.Target | None) -> str:
  if target is None:
    return (
      'The cameras do not look at one point: set config.near, config.far and '
      'config.box to what they see.'
    )
  scale = _scale(scene)
  distance = float(np.median(target.depths)) / scale
  center = _to_scene(scene, target.point)
  is_zero = np.abs(center) < 1e-5 * abs(distance)
  point = _numbers(np.where(is_zero, 0, center), ', ')
  if distance < 0:
    return (
      f'The cameras look away from ({point}), the point that their optical '
      "axes have in common: the poses seem to have OpenCV's axes (y down, z "
      "forward), but must have OpenGL's: negate the second and third column "
      'of each pose.'
    )
  fitted = scene_bounds.fit_bounds(_field_cameras(scene), target)
  box = fitted.box
  if scene.similarity is not None:  # It is a cube: turning changes nothing.
    half = (fitted.box[1] - fitted.box[0]) / 2 / scale
    box = np.stack([center - half, center + half])
  return (
    f'The cameras look at ({point}), at a distance of {distance:.4g}: set '
    f'--config.bounds=cameras, or --config.near={fitted.near / scale:.3g} '
    f'--config.far={fitted.far / scale:.3g} --config.box={_numbers(box, ",")}.'
  )


def _to_scene(scene: scenes.Scene, point: np.ndarray) -> np.ndarray:
  """Returns a point of the field in the scene's coordinates."""
  if scene.similarity is None:
    return point
  return similarity.move_points(similarity.invert(scene.similarity), point)


def _numbers(values: np.ndarray, separator: str) -> str:
  return separator.join(f'{x:.4g}' for x in np.ravel(values))
