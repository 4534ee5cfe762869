"""Flags of the programs that have a viewer, and the line they print."""

from absl import flags

HOST = flags.DEFINE_string(
  'host',
  '127.0.0.1',
  'Address that the viewer listens at; 0.0.0.0: all of the machine, so that '
  'everyone in its network can look.',
)
PORT = flags.DEFINE_integer(
  'port', 8080, 'Port of the viewer.', lower_bound=1, upper_bound=65535
)


def describe() -> str:
  """Returns where the page is, and how to see it from another machine."""
  host, port = HOST.value, PORT.value
  local = '127.0.0.1' if host == '0.0.0.0' else host
  text = f'Viewer: http://{local}:{port}. Ctrl-C ends it.'
  if local == '127.0.0.1':
    text += (
      f' From another machine: ssh -L {port}:127.0.0.1:{port} USER@MACHINE.'
    )
  return text
