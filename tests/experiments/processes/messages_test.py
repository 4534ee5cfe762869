import json
import pathlib
import pickle
import struct
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from experiments.processes import messages
from nerf_haiku import cameras, checkpoints
from tests.support import hostile


class _Inner(NamedTuple):
  count: Any
  nothing: Any = ()


class _Outer(NamedTuple):
  inner: _Inner
  named: dict[str, Any]


def _sent(value, like=None):
  return messages.restore_types(messages.decode(messages.encode(value)), like)


def _message(header, arrays=b''):
  text = json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + arrays


class EncodeTest(chex.TestCase):
  @parameterized.parameters(
    (None,),
    (True,),
    (2**70,),
    (-0.1,),
    (float('inf'),),
    ('a "word" \u00e9\n\0',),
    ('',),
    ([],),
    ((),),
    ({},),
    (('result', [1, (2.5, None)], {'a': {'array': [False]}, 'tuple': ()}),),
  )
  def test_plain_values_keep_their_types(self, value):
    sent = _sent(value)
    self.assertEqual(repr(sent), repr(value))

  def test_nan(self):
    self.assertTrue(np.isnan(_sent(float('nan'))))

  @parameterized.parameters(
    'bool', 'int32', 'uint8', 'int64', 'float16', 'bfloat16', 'float64'
  )
  def test_arrays_keep_shape_type_and_bits(self, name):
    array = np.arange(-3, 9).reshape(3, 4).astype(jnp.dtype(name))
    sent = _sent({'a': array, 'b': array.T, 'c': array[:0], 'd': array[1, 1]})
    for name, expected in (('a', array), ('b', array.T), ('c', array[:0])):
      self.assertIs(type(sent[name]), np.ndarray)
      self.assertEqual(sent[name].dtype, array.dtype)
      self.assertEqual(sent[name].shape, expected.shape)
      self.assertEqual(sent[name].tobytes(), expected.tobytes())
      sent[name][...] = 0  # They can be written, as those that were sent.
    self.assertEqual(sent['d'], array[1, 1])
    self.assertIs(type(sent['d']), type(array[1, 1]))

  def test_other_arrays(self):
    sent = _sent((jnp.float32(3), np.array(2.0), np.arange(3, dtype='>i4')))
    chex.assert_trees_all_equal(
      sent, (np.float32(3), np.array(2.0), np.arange(3, dtype=np.int32))
    )
    self.assertEqual([x.shape for x in sent], [(), (), (3,)])

  def test_a_state_keeps_its_structure(self):
    params = {'mlp/a': {'w': np.ones((2, 3), np.float32), 'b': np.zeros(3)}}
    optimizer = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adam(optax.constant_schedule(0.1)),
      optax.masked(optax.trace(0.9), {'mlp/a': {'w': True, 'b': False}}),
    )
    state = _Outer(_Inner(np.int32(3)), {'opt': optimizer.init(params)})
    template = jax.eval_shape(lambda: state)
    sent = _sent((state, {'seed': 3}), (template, {}))
    chex.assert_trees_all_equal(sent, (state, {'seed': 3}))
    self.assertEqual(jax.tree.structure(sent[0]), jax.tree.structure(state))

  def test_named_tuples_by_their_class(self):
    info = checkpoints.CheckpointInfo(7, 0, {'seed': 3})
    views = cameras.Cameras(
      np.ones((2, 3, 4)), np.ones((2, 4)), np.ones((2, 2), np.int32)
    )
    like = (checkpoints.CheckpointInfo, cameras.Cameras, cameras.Cameras, int)
    sent = _sent((info, views, None, 4), like)
    self.assertEqual(sent[0], info)
    self.assertIs(type(sent[0]), checkpoints.CheckpointInfo)
    chex.assert_trees_all_equal(sent[1], views)
    self.assertIs(type(sent[1]), cameras.Cameras)
    self.assertEqual(sent[2:], (None, 4))

  @parameterized.parameters(
    (pathlib.Path('a'),),
    ({3: 'a'},),
    ([{1, 2}],),
    (b'a',),
    (np.array(['a']),),
    (np.array([None]),),
    (np.zeros(2, [('a', 'i4')]),),
    (1j,),
    (np.ones(1, complex),),
    (len,),
  )
  def test_refuses_other_values(self, value):
    with self.assertRaisesRegex(TypeError, 'cannot be sent'):
      messages.encode(value)


class DecodeTest(chex.TestCase):
  def test_code_in_a_message_does_not_run(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'made'
    payload = pickle.dumps(hostile.Payload(folder))
    array = np.empty(1, object)
    array[0] = hostile.Payload(folder)
    for message in (
      payload,
      struct.pack('<Q', 0) + payload,
      _message({'array': ['object', [1]]}, pickle.dumps(array)),
      _message({'array': ['O', [1]]}, payload),
      _message(None, payload),
    ):
      with self.assertRaises(messages.MessageError):
        messages.decode(message)
    self.assertFalse(folder.exists())

  @parameterized.parameters(
    ({'array': ['float32', [3]]}, bytes(8)),
    ({'array': ['float32', [1]]}, bytes(8)),
    ({'array': ['float32', [-1]]}, bytes(8)),
    ({'array': ['float32', [-1, -2]]}, bytes(8)),
    ({'array': ['float32', [2.0]]}, bytes(8)),
    ({'array': ['float32', [2**40, 2**40]]}, bytes(8)),
    ({'array': ['float32', [0, 2**80]]}, b''),
    ({'array': ['float32', 2]}, bytes(8)),
    ({'array': ['float32']}, bytes(8)),
    ({'array': ['V8', [1]]}, bytes(8)),
    ({'array': [['float32'], [2]]}, bytes(8)),
    ({'array': 3}, bytes(8)),
    ({'dict': [1]}, b''),
    ({'tuple': 1}, b''),
    ({'code': 'print(1)'}, b''),
    ({}, b''),
    ({'tuple': [], 'dict': {}}, b''),
  )
  def test_refuses_a_malformed_message(self, header, arrays):
    with self.assertRaises(messages.MessageError):
      messages.decode(_message(header, arrays))

  @parameterized.parameters(
    b'',
    b'1234',
    struct.pack('<Q', 5) + b'1',
    struct.pack('<Q', 2**63) + b'1',
    struct.pack('<Q', 1) + b'\xff',
    struct.pack('<Q', 10**5) + b'[' * 10**5,
    struct.pack('<Q', 10**4) + b'1' * 10**4,
  )
  def test_refuses_other_bytes(self, message):
    with self.assertRaises(messages.MessageError):
      messages.decode(message)

  @parameterized.parameters(
    ((1, 2), _Inner(0, 0), None),
    ((1,), _Inner(0, 0), 'tuple of 2'),
    ([1, 2], _Inner(0, 0), 'holds list'),
    (None, _Inner(0, 0), 'holds NoneType'),
    ((1,), _Inner, 'tuple of 2'),
    ('ab', _Inner, 'holds str'),
    (None, _Inner, None),
    ({'a': (1,)}, {'a': _Inner}, 'tuple of 2'),
    ({'b': (1,)}, {'a': _Inner}, None),
  )
  def test_refuses_another_structure(self, value, like, message):
    if message is None:
      messages.restore_types(value, like)
      return
    with self.assertRaisesRegex(messages.MessageError, message):
      messages.restore_types(value, like)
