#!/usr/bin/env bash
# Decode: takes KV cache from prefill and writes the answer; it sees no image. Settings: ../settings.sh
set -euo pipefail
# shellcheck source=../settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

use_model
use_devices "$D_DEVICES"
use_kv_address "$D_HOST" "$D_KV_PORT"

serve "$MODEL" \
    --host "$D_HOST" \
    --port "$D_PORT" \
    ${GPU_MEMORY_UTILIZATION:+--gpu-memory-utilization "$GPU_MEMORY_UTILIZATION"} \
    --enforce-eager \
    --enable-request-id-headers \
    --served-model-name "$SERVED_MODEL_NAME" \
    --max-model-len "$MAX_MODEL_LEN" \
    --max-num-seqs "$MAX_NUM_SEQS" \
    --kv-transfer-config "$(kv_transfer_config kv_consumer "$D_KV_PORT" 1)" \
    "$@"
