# shellcheck shell=bash
# Sourced by the run scripts of 1e1pd and 1e1p1d. Every setting can be given in the environment; the same ones on all
# nodes make all parts agree, since each part listens where the others are told to find it.
#
#   MODEL                    path of the model, the same string for all parts: embeddings are found by it
#   SERVED_MODEL_NAME        what clients call it (qwenvl)
#   E_HOST, E_PORT           encode (127.0.0.1, 23001); PD_HOST, PD_PORT (33003); P_HOST, P_PORT (33003);
#                            D_HOST, D_PORT (33006); PROXY_HOST, PROXY_PORT (8001)
#   E_DEVICES, PD_DEVICES, P_DEVICES, D_DEVICES     0, 1, 1, 4
#   E_GPU_MEMORY_UTILIZATION 0.01, since encode keeps no KV cache; GPU_MEMORY_UTILIZATION of the others: 0.7
#   MAX_MODEL_LEN            32768; MAX_NUM_SEQS: 128
#   E_MAX_NUM_BATCHED_TOKENS 114688: also how many tokens of embeddings encode holds
#   EC_SHARED_STORAGE_PATH   directory that encode writes and prefill reads (/data/ec_cache; for cpu and sim one of
#                            yours); across nodes a shared file system
#   EC_CLEAR                 1: encode begins with an empty store, unless its reader is running; 0: never
#   KV_CONNECTOR             MooncakeLayerwiseConnector, for gpu and cpu NixlConnector; MooncakeConnectorV1 works too
#   KV_CONNECTOR_MODULE_PATH only for a connector that the engine does not know by name
#   P_KV_PORT, D_KV_PORT     50001, 50101, or for NixlConnector 5600, 5601
#
# More flags of `vllm serve` can follow each script's name; the last one of a kind counts.

# shellcheck source=../../engine.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../engine.sh"

SERVED_MODEL_NAME="${SERVED_MODEL_NAME:-qwenvl}"
E_HOST="${E_HOST:-127.0.0.1}" E_PORT="${E_PORT:-23001}" E_DEVICES="${E_DEVICES:-0}"
PD_HOST="${PD_HOST:-127.0.0.1}" PD_PORT="${PD_PORT:-33003}" PD_DEVICES="${PD_DEVICES:-1}"
P_HOST="${P_HOST:-127.0.0.1}" P_PORT="${P_PORT:-33003}" P_DEVICES="${P_DEVICES:-1}"
D_HOST="${D_HOST:-127.0.0.1}" D_PORT="${D_PORT:-33006}" D_DEVICES="${D_DEVICES:-4}"
PROXY_HOST="${PROXY_HOST:-127.0.0.1}" PROXY_PORT="${PROXY_PORT:-8001}"
if [[ "$ENGINE" == cpu ]]; then
    # How much memory is taken is VLLM_CPU_KVCACHE_SPACE's to say there, and the tiny model knows 4096 positions.
    MAX_MODEL_LEN="${MAX_MODEL_LEN:-4096}" MAX_NUM_SEQS="${MAX_NUM_SEQS:-16}"
    E_MAX_NUM_BATCHED_TOKENS="${E_MAX_NUM_BATCHED_TOKENS:-4096}"
else
    E_GPU_MEMORY_UTILIZATION="${E_GPU_MEMORY_UTILIZATION:-0.01}" GPU_MEMORY_UTILIZATION="${GPU_MEMORY_UTILIZATION:-0.7}"
    MAX_MODEL_LEN="${MAX_MODEL_LEN:-32768}" MAX_NUM_SEQS="${MAX_NUM_SEQS:-128}"
    E_MAX_NUM_BATCHED_TOKENS="${E_MAX_NUM_BATCHED_TOKENS:-114688}"
fi
if accelerated; then
    EC_SHARED_STORAGE_PATH="${EC_SHARED_STORAGE_PATH:-/data/ec_cache}"
else
    state="${PYMOTOR_HOME:-${XDG_STATE_HOME:-$HOME/.local/state}/pymotor}"
    EC_SHARED_STORAGE_PATH="${EC_SHARED_STORAGE_PATH:-$state/ec_cache}"
fi
case "$ENGINE" in
    gpu | cpu) KV_CONNECTOR="${KV_CONNECTOR:-NixlConnector}" ;;
    *) KV_CONNECTOR="${KV_CONNECTOR:-MooncakeLayerwiseConnector}" ;;
esac
if [[ "$KV_CONNECTOR" == Nixl* ]]; then
    P_KV_PORT="${P_KV_PORT:-5600}" D_KV_PORT="${D_KV_PORT:-5601}"
else
    P_KV_PORT="${P_KV_PORT:-50001}" D_KV_PORT="${D_KV_PORT:-50101}"
fi
printable_settings EC_SHARED_STORAGE_PATH KV_CONNECTOR KV_CONNECTOR_MODULE_PATH

e_url="http://$(in_url "$E_HOST"):$E_PORT" pd_url="http://$(in_url "$PD_HOST"):$PD_PORT"
p_url="http://$(in_url "$P_HOST"):$P_PORT" d_url="http://$(in_url "$D_HOST"):$D_PORT"
proxy_url="http://$(in_url "$PROXY_HOST"):$PROXY_PORT"

use_model() { choose_model "/your/local/model/path/Qwen3-VL-8B-Instruct"; }

# --ec-transfer-config of a role.
ec_transfer_config() {
    printf '{"ec_connector": "ECExampleConnector", "ec_role": "%s",' "$1"
    printf ' "ec_connector_extra_config": {"shared_storage_path": %s}}' "$(json "$EC_SHARED_STORAGE_PATH")"
}

# --kv-transfer-config of a role, with the port and the engine id of this instance.
kv_transfer_config() {
    printf '{"kv_connector": %s, "kv_role": "%s"' "$(json "$KV_CONNECTOR")" "$1"
    if [[ -n "${KV_CONNECTOR_MODULE_PATH:-}" ]]; then
        printf ', "kv_connector_module_path": %s' "$(json "$KV_CONNECTOR_MODULE_PATH")"
    fi
    if [[ "$KV_CONNECTOR" == Nixl* ]]; then
        [[ "$ENGINE" != cpu ]] || printf ', "kv_buffer_device": "cpu"'
    else
        local sizes='{"dp_size": 1, "tp_size": 1}'
        printf ', "kv_port": "%s", "engine_id": "%s"' "$2" "$3"
        printf ', "kv_connector_extra_config": {"use_ascend_direct": true, "prefill": %s, "decode": %s}' "$sizes" "$sizes"
    fi
    printf '}'
}

# Where the connector of an instance listens, for what is told by the environment.
use_kv_address() {
    export VLLM_NIXL_SIDE_CHANNEL_HOST="${VLLM_NIXL_SIDE_CHANNEL_HOST:-$1}"
    export VLLM_NIXL_SIDE_CHANNEL_PORT="${VLLM_NIXL_SIDE_CHANNEL_PORT:-$2}"
    [[ "$1" == 127.* || "$1" == localhost ]] || export VLLM_HOST_IP="${VLLM_HOST_IP:-$1}"
}

# Make the store, and empty it of embeddings: those of other weights under the same path would be taken for this
# model's. Nothing else in the directory is touched; empty directories go that are named like embeddings. A running reader may be about to load one, so then all stay.
prepare_store() {
    local store="$EC_SHARED_STORAGE_PATH"
    [[ "$store" == /* ]] || fail "EC_SHARED_STORAGE_PATH=$store is not an absolute path"
    mkdir -p -- "$store"
    [[ "${EC_CLEAR:-1}" == 1 ]] || return 0
    if ! nobody_at "$1/health"; then
        printf '%s: somebody listens at %s, so the embeddings in %s stay\n' "$(basename "$0")" "$1" "$store" >&2
        return 0
    fi
    local item
    while IFS= read -r -d '' item; do
        rm -f -- "$item"
        rmdir --ignore-fail-on-non-empty -- "$(dirname -- "$item")"
    done < <(find "$store/" -mindepth 2 -maxdepth 2 -type f -name encoder_cache.safetensors -print0)
    find "$store/" -mindepth 1 -maxdepth 1 -type d -empty -regextype posix-extended \
        -regex '.*/([^/]+:)?[0-9a-f]{32,128}' -delete
}
