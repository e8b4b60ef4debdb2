#!/bin/bash
# Removes what deploy.py deployed in a namespace, and says what is left:  bash delete.sh NAMESPACE

set -euo pipefail

# shellcheck source=startup/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/startup/python.sh"
exec "$PYTHON" -m pymotor.deployer.removal "$@"
