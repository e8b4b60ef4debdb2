#!/usr/bin/env bash
# Writes ranktable.json beside this script. Start it with the same --ips and counts on every node (they find one
# another), or on one host with --ssh. `gen_ranktable.sh --help` lists all flags; docs/ranktable.md explains them.
#
#   PYTHON                    a Python that has PyMotor (.venv of the checkout, or python3)
#   PYMOTOR_RANKTABLE_TOKEN   a secret shared by the nodes, so that no other host can take part
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
checkout="$(cd "$here/../.." && pwd)"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    [[ ! -x "$checkout/.venv/bin/python" ]] || PYTHON="$checkout/.venv/bin/python"
fi

exec "$PYTHON" -m pymotor ranktable generate --ranktable-path "$here/ranktable.json" "$@"
