#!/usr/bin/env bash
# The proxy: clients ask it, it asks encode, prefill and decode in the order of their connector. Settings: ../settings.sh
set -euo pipefail
# shellcheck source=../settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

proxy epd_disaggregated/epd_load_balance_proxy_layerwise_server_example.py \
    --handoff "$KV_CONNECTOR" \
    --encoder-hosts "$E_HOST" \
    --encoder-ports "$E_PORT" \
    --prefiller-hosts "$P_HOST" \
    --prefiller-ports "$P_PORT" \
    --decoder-hosts "$D_HOST" \
    --decoder-ports "$D_PORT" \
    --host "$PROXY_HOST" \
    --port "$PROXY_PORT" \
    "$@"
