#!/usr/bin/env bash
# Prefill and decode in one engine, with the embeddings of the store. Settings: ../settings.sh
set -euo pipefail
# shellcheck source=../settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

use_model
use_devices "$PD_DEVICES"

serve "$MODEL" \
    --host "$PD_HOST" \
    --port "$PD_PORT" \
    ${GPU_MEMORY_UTILIZATION:+--gpu-memory-utilization "$GPU_MEMORY_UTILIZATION"} \
    --enforce-eager \
    --enable-request-id-headers \
    --served-model-name "$SERVED_MODEL_NAME" \
    --max-model-len "$MAX_MODEL_LEN" \
    --max-num-seqs "$MAX_NUM_SEQS" \
    --ec-transfer-config "$(ec_transfer_config ec_consumer)" \
    "$@"
