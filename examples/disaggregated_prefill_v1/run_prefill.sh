#!/usr/bin/env bash
# One prefill instance on this node. Settings: settings.sh
set -euo pipefail
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

use_instance 0 "${PREFILL_HOSTS%% *}" "${PREFILL_PORTS%% *}" 0,1
serve_role kv_producer --enforce-eager "$@"
