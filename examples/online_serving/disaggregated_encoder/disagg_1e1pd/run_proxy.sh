#!/usr/bin/env bash
# The proxy: clients ask it, it asks encode and then prefill-decode. Settings: ../settings.sh
set -euo pipefail
# shellcheck source=../settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

proxy epd_disaggregated/epd_load_balance_proxy_layerwise_server_example.py \
    --encoder-hosts "$E_HOST" \
    --encoder-ports "$E_PORT" \
    --pd-hosts "$PD_HOST" \
    --pd-ports "$PD_PORT" \
    --host "$PROXY_HOST" \
    --port "$PROXY_PORT" \
    "$@"
