"""LPIPS pixel by pixel, in NumPy: equation 1 of Zhang et al. 2018."""

import numpy as np

# (size, channels, stride, padding) of a convolution, with its ReLU; the side
# of a max pool of stride 2; or the mark of features that count.
TAP = 'tap'
_VGG = (
  (3, 64, 1, 1),
  (3, 64, 1, 1),
  TAP,
  2,
  (3, 128, 1, 1),
  (3, 128, 1, 1),
  TAP,
  2,
  (3, 256, 1, 1),
  (3, 256, 1, 1),
  (3, 256, 1, 1),
  TAP,
  2,
  (3, 512, 1, 1),
  (3, 512, 1, 1),
  (3, 512, 1, 1),
  TAP,
  2,
  (3, 512, 1, 1),
  (3, 512, 1, 1),
  (3, 512, 1, 1),
  TAP,
)
_ALEX = (
  (11, 64, 4, 2),
  TAP,
  3,
  (5, 192, 1, 2),
  TAP,
  3,
  (3, 384, 1, 1),
  TAP,
  (3, 256, 1, 1),
  TAP,
  (3, 256, 1, 1),
  TAP,
)
PLANS = {'vgg': _VGG, 'alex': _ALEX}


def _windows(x, size, stride):
  """Yields `(row, column, window)` of the whole windows of `[H, W, C]`."""
  for row in range((x.shape[0] - size) // stride + 1):
    for column in range((x.shape[1] - size) // stride + 1):
      top, left = row * stride, column * stride
      yield row, column, x[top : top + size, left : left + size]


def _map_windows(fn, x, size, stride):
  values = {(r, c): fn(w) for r, c, w in _windows(x, size, stride)}
  rows, columns = (1 + max(i) for i in zip(*values, strict=True))
  return np.array([[values[r, c] for c in range(columns)] for r in range(rows)])


def _features(weights, image, net):
  """The five features of a `[H, W, 3]` uint8 image, in float64."""
  shift, scale = np.array([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])
  x = (image / 255 * 2 - 1 - shift) / scale
  convs, result = iter(weights.convs), []
  for step in PLANS[net]:
    if step == TAP:
      result.append(x)
    elif isinstance(step, int):
      x = _map_windows(lambda w: w.max((0, 1)), x, step, 2)
    else:
      kernel, bias = (np.float64(y) for y in next(convs))
      size, _, stride, padding = step
      x = np.pad(x, [(padding, padding), (padding, padding), (0, 0)])
      x = _map_windows(
        lambda w, k=kernel, b=bias: np.maximum(
          np.tensordot(w, k, axes=3) + b, 0
        ),
        x,
        size,
        stride,
      )
  return result


def distance(weights, images, net):
  """Equation 1 of Zhang et al. 2018, pixel by pixel."""
  features = [_features(weights, image, net) for image in images]
  total = 0
  for one, other, linear in zip(*features, weights.linear, strict=True):
    values = []
    for pixel in np.ndindex(one.shape[:2]):
      a, b = (
        x[pixel] / (np.sqrt(np.sum(x[pixel] ** 2)) + 1e-10)
        for x in (one, other)
      )
      values.append(np.sum(linear * (a - b) ** 2))
    total += np.mean(values)
  return total
