"""Makes validation and test views where a data set has none."""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from nerf_haiku import errors

T = TypeVar('T')


class HeldOut(NamedTuple, Generic[T]):
  """The views of validation or test, or why there are none."""

  views: T | None
  problem: str = ''  # why there are none, for a notice.


class Splits(NamedTuple, Generic[T]):
  """Three splits; `val` is `test` where both have the same views."""

  train: T
  val: T
  test: T
  notices: tuple[str, ...]  # what was made of what, for the user.


def complete(
  train: T,
  val: HeldOut[T],
  test: HeldOut[T],
  *,
  count: int,
  holdout: int,
  take: Callable[[T, Sequence[int]], T],
) -> Splits[T]:
  """Makes the splits that a data set lacks.

  Of validation and test, one replaces the other. If there is neither, both are
  every `holdout`-th training view, from the first on, which is then no longer
  used for training.

  Args:
    train: the training views.
    val: the validation views.
    test: the test views.
    count: number of training views.
    holdout: 2 or more.
    take: returns those of some views that have the given indices.

  Raises:
    UserError: if no view is left for training.
  """
  if test.views is not None and val.views is not None:
    return Splits(train, val.views, test.views, ())
  if test.views is not None:
    notice = f'Validation views are the test views: {val.problem}.'
    return Splits(train, test.views, test.views, (notice,))
  if val.views is not None:
    notice = f'Test views are the validation views: {test.problem}.'
    return Splits(train, val.views, val.views, (notice,))
  if count < 2:
    raise errors.UserError(
      f'{test.problem}, and one training view cannot be divided: add views.'
    )
  held_out = range(0, count, holdout)
  rest = [i for i in range(count) if i % holdout]
  views = take(train, held_out)
  notice = (
    f'Every {ordinal(holdout)} training view ({len(held_out)} of {count}) is '
    f'for validation and testing, not for training: {test.problem} '
    f'(holdout={holdout}).'
  )
  return Splits(take(train, rest), views, views, (notice,))


def ordinal(number: int) -> str:
  """Returns '2nd', '8th', '21st' and so on."""
  teen = number % 100 in (11, 12, 13)
  suffix = {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')
  return f'{number}{"th" if teen else suffix}'
