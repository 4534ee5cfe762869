import pathlib

from absl.testing import absltest

from experiments.configs import saved


class SavedTest(absltest.TestCase):
  def test_refuses_deeply_nested_json(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'config.json'
    path.write_text('[' * 100_000)
    with self.assertRaisesRegex(ValueError, 'was not written'):
      saved.get_config(str(path))


if __name__ == '__main__':
  absltest.main()
