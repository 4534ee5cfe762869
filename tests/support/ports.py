"""Ports for servers of tests."""

import socket


def free_port() -> int:
  """Returns a port of this machine that nobody listens at."""
  with socket.socket() as opened:
    opened.bind(('127.0.0.1', 0))
    port: int = opened.getsockname()[1]
    return port
