#!/usr/bin/env bash
# Makes the two environments that nerfbaselines and nerf_haiku need, and prints
# the variables that connect them:
#
#   source <(experiments/nerfbaselines_adapter/install.sh FOLDER)
#   nerfbaselines test-method --method nerf-haiku --backend python --data FOLDER
#
# With NERF_HAIKU_PYTHON, a Python that nerf_haiku is installed for, it makes the
# other one only.
set -euo pipefail
folder=$(realpath -m "${1:?the folder of the environments}")
here=$(cd "$(dirname "$0")" && pwd)
python=${NERF_HAIKU_PYTHON:-$folder/nerf_haiku/bin/python}
{
  if [ -z "${NERF_HAIKU_PYTHON:-}" ]; then
    python3 -m venv "$folder/nerf_haiku"
    "$python" -m pip install --quiet -e "$here/../.."
  fi
  python3 -m venv "$folder/nerfbaselines"
  # Its numpy is older than ours may be.
  "$folder/nerfbaselines/bin/pip" install --quiet 'nerfbaselines>=1.2.12,<1.3' \
    'numpy<2' tensorboard
} >&2
cat <<END
export NERF_HAIKU_PYTHON="$python"
export NERFBASELINES_REGISTER="$here/spec.py"
export PATH="$folder/nerfbaselines/bin:\$PATH"
END
