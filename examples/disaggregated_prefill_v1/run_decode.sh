#!/usr/bin/env bash
# One decode instance on this node; a second one on another node: NODE_IP=192.0.0.3 INSTANCE=2. Settings: settings.sh
set -euo pipefail
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

use_instance 1 "${DECODE_HOSTS%% *}" "${DECODE_PORTS%% *}" 6,7
serve_role kv_consumer "$@"
