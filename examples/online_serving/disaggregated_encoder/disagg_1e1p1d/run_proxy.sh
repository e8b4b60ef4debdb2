#!/usr/bin/env bash
# The proxy before encode, prefill and decode. Which one depends on who is asked first. Settings: ../settings.sh
set -euo pipefail
# shellcheck source=../settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

if [[ "$KV_CONNECTOR" == MooncakeLayerwiseConnector ]]; then
    # Decode is asked first and calls the proxy back for prefill.
    proxy epd_disaggregated/epd_load_balance_proxy_layerwise_server_example.py \
        --encoder-hosts "$E_HOST" \
        --encoder-ports "$E_PORT" \
        --prefiller-hosts "$P_HOST" \
        --prefiller-ports "$P_PORT" \
        --decoder-hosts "$D_HOST" \
        --decoder-ports "$D_PORT" \
        --host "$PROXY_HOST" \
        --port "$PROXY_PORT" \
        "$@"
else
    # Prefill is asked first; what it answers tells decode where the KV cache is.
    proxy online_serving/disaggregated_encoder/disagg_epd_proxy.py \
        --encode-servers-urls "$e_url" \
        --prefill-servers-urls "$p_url" \
        --decode-servers-urls "$d_url" \
        --host "$PROXY_HOST" \
        --port "$PROXY_PORT" \
        "$@"
fi
