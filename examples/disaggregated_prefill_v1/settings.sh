# shellcheck shell=bash
# Sourced by run_prefill.sh, run_decode.sh and run_proxy.sh. Every setting can be given in the environment.
#
#   MODEL                    path of the model (/model/Qwen3-30B-A3B), SERVED_MODEL_NAME what clients call it (qwen3-moe)
#   NODE_IP                  address of this node: where the engine listens and where the others fetch KV cache from
#                            (192.0.0.1 for prefill, 192.0.0.2 for decode; for cpu and sim 127.0.0.1)
#   PORT                     13700 (cpu and sim, where both are on one node: decode 13701)
#   NIC                      network card of this node (eth0)
#   DEVICES                  devices of this instance (prefill 0,1; decode 6,7), TENSOR_PARALLEL_SIZE how many (2)
#   INSTANCE                 number of this instance among all: 0 is prefill, decodes are 1, 2, … No two may share one
#   MAX_MODEL_LEN            6144, also the most tokens of a step; GPU_MEMORY_UTILIZATION: 0.9
#   KV_CONNECTOR             LLMDataDistCMgrConnector (vllm-ascend up to 0.11), for gpu and cpu NixlConnector;
#                            MooncakeConnectorV1 on a newer vllm-ascend
#   KV_CONNECTOR_MODULE_PATH only for a connector that the engine does not know by name
#   DISAGGREGATED_PREFILL_RANK_TABLE_PATH   ranktable.json beside this file; gen_ranktable.sh writes it
#   VLLM_ASCEND_LLMDD_RPC_PORT              5557 and so many more for each instance as it has devices
#   KV_PORT                  20001 and a hundred more for each instance (NixlConnector: 5600, one more for each)
#   PREFILL_HOSTS, DECODE_HOSTS             for the proxy, separated by blanks (192.0.0.1; 192.0.0.2 192.0.0.3)
#   PREFILL_PORTS, DECODE_PORTS             one for all hosts of a role, or one for each (13700)
#   PROXY_HOST, PROXY_PORT   192.0.0.1 (cpu and sim: 127.0.0.1), 8080

# shellcheck source=../engine.sh
source "$(dirname "${BASH_SOURCE[0]}")/../engine.sh"

SERVED_MODEL_NAME="${SERVED_MODEL_NAME:-qwen3-moe}"
NIC="${NIC:-eth0}" TENSOR_PARALLEL_SIZE="${TENSOR_PARALLEL_SIZE:-2}"
if accelerated; then
    MAX_MODEL_LEN="${MAX_MODEL_LEN:-6144}" GPU_MEMORY_UTILIZATION="${GPU_MEMORY_UTILIZATION:-0.9}"
    PREFILL_HOSTS="${PREFILL_HOSTS:-192.0.0.1}" DECODE_HOSTS="${DECODE_HOSTS:-192.0.0.2 192.0.0.3}"
    PREFILL_PORTS="${PREFILL_PORTS:-13700}" DECODE_PORTS="${DECODE_PORTS:-13700}"
else
    MAX_MODEL_LEN="${MAX_MODEL_LEN:-4096}"
    PREFILL_HOSTS="${PREFILL_HOSTS:-127.0.0.1}" DECODE_HOSTS="${DECODE_HOSTS:-127.0.0.1}"
    PREFILL_PORTS="${PREFILL_PORTS:-13700}" DECODE_PORTS="${DECODE_PORTS:-13701}"
fi
PROXY_HOST="${PROXY_HOST:-${PREFILL_HOSTS%% *}}" PROXY_PORT="${PROXY_PORT:-8080}"
case "$ENGINE" in
    gpu | cpu) KV_CONNECTOR="${KV_CONNECTOR:-NixlConnector}" ;;
    *) KV_CONNECTOR="${KV_CONNECTOR:-LLMDataDistCMgrConnector}" ;;
esac
printable_settings KV_CONNECTOR KV_CONNECTOR_MODULE_PATH

# The settings of one instance: its number, address, port and devices unless the environment says otherwise.
use_instance() {
    INSTANCE="${INSTANCE:-$1}" NODE_IP="${NODE_IP:-$2}" PORT="${PORT:-$3}" DEVICES="${DEVICES:-$4}"
    [[ "$INSTANCE" =~ ^[0-9]+$ ]] || fail "INSTANCE=$INSTANCE is not a number"
    choose_model "/model/Qwen3-30B-A3B"
    use_devices "$DEVICES"
    [[ "$NODE_IP" == 127.* || "$NODE_IP" == localhost ]] || export VLLM_HOST_IP="${VLLM_HOST_IP:-$NODE_IP}"
    if [[ "$ENGINE" == ascend ]]; then use_ascend_network; fi
    if [[ "$KV_CONNECTOR" == Nixl* ]]; then
        export VLLM_NIXL_SIDE_CHANNEL_HOST="${VLLM_NIXL_SIDE_CHANNEL_HOST:-$NODE_IP}"
        export VLLM_NIXL_SIDE_CHANNEL_PORT="${VLLM_NIXL_SIDE_CHANNEL_PORT:-${KV_PORT:-$((5600 + INSTANCE))}}"
    fi
    if [[ "$KV_CONNECTOR" == LLMDataDistCMgrConnector ]]; then use_llmdatadist; fi
}

use_ascend_network() {
    export HCCL_IF_IP="$NODE_IP"
    export GLOO_SOCKET_IFNAME="$NIC" TP_SOCKET_IFNAME="$NIC" HCCL_SOCKET_IFNAME="$NIC"
    export OMP_PROC_BIND=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-10}"
    export VLLM_USE_V1=1
}

# LLMDataDist finds the other side's devices in the ranktable, and requests' KV cache by an RPC port: one for each
# device, so that two instances on a node must not share one.
use_llmdatadist() {
    export VLLM_ASCEND_LLMDD_RPC_PORT="${VLLM_ASCEND_LLMDD_RPC_PORT:-$((5557 + INSTANCE * TENSOR_PARALLEL_SIZE))}"
    local here
    here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
    export DISAGGREGATED_PREFILL_RANK_TABLE_PATH="${DISAGGREGATED_PREFILL_RANK_TABLE_PATH:-$here/ranktable.json}"
    if [[ "$ENGINE" == ascend && ! -r "$DISAGGREGATED_PREFILL_RANK_TABLE_PATH" ]]; then
        fail "there is no ranktable at $DISAGGREGATED_PREFILL_RANK_TABLE_PATH; make it with gen_ranktable.sh"
    fi
}

# --kv-transfer-config of a role. Each instance has an engine id of its own: peers remember each other by it.
kv_transfer_config() {
    printf '{"kv_connector": %s, "kv_role": "%s"' "$(json "$KV_CONNECTOR")" "$1"
    if [[ -n "${KV_CONNECTOR_MODULE_PATH:-}" ]]; then
        printf ', "kv_connector_module_path": %s' "$(json "$KV_CONNECTOR_MODULE_PATH")"
    fi
    if [[ "$KV_CONNECTOR" == Nixl* ]]; then
        [[ "$ENGINE" != cpu ]] || printf ', "kv_buffer_device": "cpu"'
    else
        printf ', "kv_buffer_device": "npu", "kv_port": "%s", "engine_id": "%s"' \
            "${KV_PORT:-$((20001 + INSTANCE * 100))}" "$INSTANCE"
        if [[ "$KV_CONNECTOR" == Mooncake* ]]; then
            local sizes='{"dp_size": 1, "tp_size": '"$TENSOR_PARALLEL_SIZE"'}'
            printf ', "kv_connector_extra_config": {"use_ascend_direct": true, "prefill": %s, "decode": %s}' \
                "$sizes" "$sizes"
        fi
    fi
    printf '}'
}

# Become the engine of a role, with what prefill and decode have in common.
serve_role() {
    local options=(
        --host "$NODE_IP"
        --port "$PORT"
        --no-enable-prefix-caching
        --seed 1024
        --served-model-name "$SERVED_MODEL_NAME"
        --max-model-len "$MAX_MODEL_LEN"
        --max-num-batched-tokens "$MAX_MODEL_LEN"
        --kv-transfer-config "$(kv_transfer_config "$1")"
    )
    if accelerated; then
        options+=(
            --tensor-parallel-size "$TENSOR_PARALLEL_SIZE"
            --trust-remote-code
            --gpu-memory-utilization "$GPU_MEMORY_UTILIZATION"
            --enable-expert-parallel
        )
    fi
    if [[ "$ENGINE" == ascend && "$KV_CONNECTOR" == LLMDataDistCMgrConnector ]]; then
        # As vllm-ascend had it in the releases that have this connector.
        options+=(
            --additional-config
            '{"torchair_graph_config": {"enabled": false, "enable_multistream_shared_expert": false},
              "ascend_scheduler_config": {"enabled": true, "enable_chunked_prefill": false}}'
        )
    fi
    serve "$MODEL" "${options[@]}" "${@:2}"
}
