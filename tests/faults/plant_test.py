import ast
import pathlib

import chex
from absl.testing import parameterized

from tests.faults import plant

_FAULTS = plant.read_faults()
_PACKAGE = pathlib.Path(__file__).resolve().parents[2] / 'nerf_haiku'


class FaultsTest(chex.TestCase, parameterized.TestCase):
  def test_they_fit_the_code(self):
    self.assertGreater(len(_FAULTS), 60)
    self.assertLen({(x.path, x.before, x.after) for x in _FAULTS}, len(_FAULTS))
    for fault in _FAULTS:
      with self.subTest(f'{fault.path}: {fault.effect}'):
        source = (_PACKAGE / fault.path).read_text()
        self.assertEqual(source.count(fault.before), 1)
        changed = source.replace(fault.before, fault.after)
        # Other code, and still Python.
        self.assertNotEqual(
          ast.dump(ast.parse(changed)), ast.dump(ast.parse(source))
        )

  def test_one_is_planted_and_only_once(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    path = root / 'nerf_haiku' / 'volume.py'
    path.parent.mkdir()
    path.write_text('a = 1\nb = 2\n')
    fault = plant.Fault('volume.py', 'b is wrong', 'b = 2', 'b = 3')
    self.assertEqual(plant.plant(root, fault), 'a = 1\nb = 2\n')
    self.assertEqual(path.read_text(), 'a = 1\nb = 3\n')
    with self.assertRaisesRegex(ValueError, 'b = 2'):
      plant.plant(root, fault)
