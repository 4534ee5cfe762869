"""Registers the method with nerfbaselines; its environment imports this file.

NERFBASELINES_REGISTER=experiments/nerfbaselines_adapter/spec.py
"""

import os
import sys

from nerfbaselines import register

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# Configs of experiments/configs by the data sets that they are for.
_PRESETS = {
  'fast-blender': ('fast_blender_lego', {'dataset': 'blender'}),
  'capture': ('capture', {'type': 'unbounded-360'}),
  'paper-blender': ('paper_blender_lego', None),
  'paper-llff': ('paper_llff_fern', None),
  'quickstart': ('quickstart', None),
}

register(
  {
    'id': 'nerf-haiku',
    'method_class': 'bridge:Method',
    'backends_order': ['python'],
    'presets': {
      name: {'config': config, '@apply': [where] if where else []}
      for name, (config, where) in _PRESETS.items()
    },
    'metadata': {
      'name': 'nerf_haiku',
      'description': 'NeRF in JAX and Haiku: the paper, and fast fields.',
      'paper_title': (
        'NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis'
      ),
      'licenses': [{'name': 'Apache-2.0'}],
    },
    'implementation_status': {},
  }
)

register(
  {'id': 'nerf-haiku-offline', 'evaluation_protocol_class': 'offline:Protocol'}
)
