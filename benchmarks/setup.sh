#!/bin/sh
# Installs what gateway_overhead.py and prefix_index.py compare PyMotor with, into a virtual environment of its own
# (.venv-bench).
# HAProxy comes from the system's packages, where wanted.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
environment=${PYMOTOR_BENCH_VENV:-$root/.venv-bench}
[ -x "$environment/bin/python" ] || "${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check 'vllm-router==0.1.17' 'py-spy>=0.4'
"$environment/bin/pip" install --quiet --disable-pip-version-check 'ai-dynamo-runtime==1.6.1' 'msgspec==0.22.0' 'numpy>=1.26' \
    'xxhash==4.1.0'
"$environment/bin/python" -c 'from importlib.metadata import version; print("vllm-router", version("vllm-router"), "ai-dynamo-runtime", version("ai-dynamo-runtime"))'
command -v haproxy >/dev/null || echo "haproxy is not installed; on Debian: apt-get install haproxy"
