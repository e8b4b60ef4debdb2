#!/usr/bin/env bash
# Encode: as with one PD instance; who reads the store is prefill. Settings: ../settings.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=../settings.sh
source "$here/../settings.sh"

READER_URL="$p_url" exec bash "$here/../disagg_1e1pd/run_e.sh" "$@"
