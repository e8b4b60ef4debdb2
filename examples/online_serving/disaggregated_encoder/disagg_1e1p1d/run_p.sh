#!/usr/bin/env bash
# Prefill: reads embeddings from the store and hands KV cache to decode. Settings: ../settings.sh
set -euo pipefail
# shellcheck source=../settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

use_model
use_devices "$P_DEVICES"
use_kv_address "$P_HOST" "$P_KV_PORT"

serve "$MODEL" \
    --host "$P_HOST" \
    --port "$P_PORT" \
    ${GPU_MEMORY_UTILIZATION:+--gpu-memory-utilization "$GPU_MEMORY_UTILIZATION"} \
    --enforce-eager \
    --enable-request-id-headers \
    --served-model-name "$SERVED_MODEL_NAME" \
    --max-model-len "$MAX_MODEL_LEN" \
    --max-num-seqs "$MAX_NUM_SEQS" \
    --ec-transfer-config "$(ec_transfer_config ec_consumer)" \
    --kv-transfer-config "$(kv_transfer_config kv_producer "$P_KV_PORT" 0)" \
    "$@"
