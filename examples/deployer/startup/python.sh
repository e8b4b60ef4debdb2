# shellcheck shell=bash
# Sourced by delete.sh and show_log.sh: which Python has PyMotor.
#
#   PYTHON   the Python to use; without it .venv of the checkout, else python3

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    [[ ! -x "$checkout/.venv/bin/python" ]] || PYTHON="$checkout/.venv/bin/python"
fi
# In a checkout its own code counts; examples that were copied out of an image have none beside them.
if [[ -d "$checkout/src/pymotor" ]]; then
    export PYTHONPATH="$checkout/src${PYTHONPATH:+:$PYTHONPATH}"
fi
if ! "$PYTHON" -c 'import pymotor.deployer' 2>/dev/null; then
    source=". in a checkout of PyMotor; its image has it"
    [[ ! -e "$checkout/pyproject.toml" ]] || source="$checkout"
    printf '%s: %s has no PyMotor; install it there (%s -m pip install %s), or name another Python: PYTHON=...\n' \
        "$(basename "$0")" "$PYTHON" "$PYTHON" "$source" >&2
    exit 1
fi
