#!/usr/bin/env bash
# Encode: turns images into embeddings and writes them into the store. Settings: ../settings.sh
set -euo pipefail
# shellcheck source=../settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

use_model
use_devices "$E_DEVICES"
prepare_store "${READER_URL:-$pd_url}"

serve "$MODEL" \
    --host "$E_HOST" \
    --port "$E_PORT" \
    ${E_GPU_MEMORY_UTILIZATION:+--gpu-memory-utilization "$E_GPU_MEMORY_UTILIZATION"} \
    --enforce-eager \
    --enable-request-id-headers \
    --served-model-name "$SERVED_MODEL_NAME" \
    --max-model-len "$MAX_MODEL_LEN" \
    --no-enable-prefix-caching \
    --max-num-batched-tokens "$E_MAX_NUM_BATCHED_TOKENS" \
    --max-num-seqs "$MAX_NUM_SEQS" \
    --ec-transfer-config "$(ec_transfer_config ec_producer)" \
    "$@"
