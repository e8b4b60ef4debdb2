#!/bin/bash
# Writes the logs of all pods into log_collect/log, in the background:  bash show_log.sh
# Whose logs says name_sapce in log_collect/log_config.ini, or:  bash show_log.sh --namespace NAMESPACE

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=startup/python.sh
source "$here/startup/python.sh"
exec "$PYTHON" -m pymotor.deployer.log_collection --config "$here/log_collect/log_config.ini" --detach "$@"
