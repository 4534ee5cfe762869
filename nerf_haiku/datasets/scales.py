"""The same photographs at several sizes, as multi-scale Blender has them."""

from typing import Any

import numpy as np

from nerf_haiku import cameras, scenes
from nerf_haiku.datasets import area_resize

_WHOLE = 1 - 1e-5  # Of an area, but for rounding.


def add_scales(split: scenes.Split[Any], num_scales: int) -> scenes.Split[Any]:
  """Adds photographs of 1/2, 1/4 and so on of the size to those of a split.

  Each pixel is the mean of the area that it covers (Barron et al., *Mip-NeRF*,
  2021, section 4.1), of straight colours as where images are downscaled on
  loading, and counts where all of that area does.

  Args:
    split: `N` photographs.
    num_scales: `K`, 1 for the photographs alone.

  Returns:
    `K * N` photographs: first all of the full size, then all of half of it.
  """
  if num_scales == 1:
    return split
  count, sizes = len(split.images), np.asarray(split.cameras.sizes)
  all_sizes = np.concatenate(
    [np.maximum(sizes >> k, 1) for k in range(num_scales)]
  )

  def read(index: int) -> np.ndarray:
    image = split.images[index % count]
    return area_resize.downscale_to(
      image,
      *map(int, all_sizes[index]),
      white=np.iinfo(image.dtype).max,
      dtype=np.uint16,
    )

  images: scenes.Images | scenes.LazyImages
  images = scenes.LazyImages(len(all_sizes), read)
  if isinstance(split.images, scenes.Images):
    channels = split.images.pixels.shape[-1]
    pixels = np.concatenate(
      [read(i).reshape(-1, channels) for i in range(len(all_sizes))]
    )
    images = scenes.Images(pixels, all_sizes)
  index = np.arange(len(all_sizes)) % count
  return split._replace(
    images=images,
    cameras=cameras.scale(cameras.take(split.cameras, index), all_sizes),
    names=tuple(
      name if k == 0 else f'{name}_{2**k}'
      for k in range(num_scales)
      for name in split.names
    ),
    masks=_scale_masks(split.masks, all_sizes),
  )


def _scale_masks(
  masks: scenes.Images | None, sizes: np.ndarray
) -> scenes.Images | None:
  if masks is None:
    return None
  parts = []
  for i, size in enumerate(sizes):
    counts = (masks[i % len(masks)] > 0).astype(np.uint8)
    mean = area_resize.downscale(counts, *map(int, size))
    parts.append(
      (mean >= _WHOLE).astype(np.uint8).reshape(-1, 1) * np.uint8(255)
    )
  return scenes.Images(np.concatenate(parts), sizes)
