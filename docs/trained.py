"""Opens a trained run with the library alone: queries it, and renders a view.

python docs/trained.py runs/quickstart
"""

import sys

import numpy as np

from nerf_haiku import camera_paths, cameras, models
from nerf_haiku.io import media


def look(model_dir: str, size: int = 200) -> np.ndarray:
  """Returns a view of a run's scene from a pose of its own, and prints facts.

  Args:
    model_dir: the folder of a run.
    size: height and width of the view.
  """
  model = models.open_run(model_dir)
  density, rgb = model.query(np.zeros(3), np.array([0.0, 0.0, -1.0]))
  print(f'step {model.step}: at the origin density {density:.3g}, color {rgb}')
  poses = camera_paths.circle(8, radius=4.0)
  camera = cameras.pinhole(poses[3:4], [[size, size]], [1.2 * size])
  view = model.render(camera)
  print(f'depth of the middle: {view.depth[size // 2, size // 2]:.2f}')
  return view.rgb


if __name__ == '__main__':
  media.write_png('view.png', media.to_uint8(look(sys.argv[1])))
