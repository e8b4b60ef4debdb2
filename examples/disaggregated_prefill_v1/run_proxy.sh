#!/usr/bin/env bash
# The proxy before prefill and decode: clients ask it. Settings: settings.sh
set -euo pipefail
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

read -ra prefill_hosts <<<"$PREFILL_HOSTS"
read -ra prefill_ports <<<"$PREFILL_PORTS"
read -ra decode_hosts <<<"$DECODE_HOSTS"
read -ra decode_ports <<<"$DECODE_PORTS"
while ((${#prefill_ports[@]} < ${#prefill_hosts[@]})); do prefill_ports+=("${prefill_ports[0]}"); done
while ((${#decode_ports[@]} < ${#decode_hosts[@]})); do decode_ports+=("${decode_ports[0]}"); done

proxy disaggregated_prefill_v1/load_balance_proxy_server_example.py \
    --handoff "$KV_CONNECTOR" \
    --host "$PROXY_HOST" \
    --port "$PROXY_PORT" \
    --prefiller-hosts "${prefill_hosts[@]}" \
    --prefiller-ports "${prefill_ports[@]}" \
    --decoder-hosts "${decode_hosts[@]}" \
    --decoder-ports "${decode_ports[@]}" \
    "$@"
