# shellcheck shell=bash
# Sourced by the run scripts of the examples: what they have in common.
#
#   ENGINE=ascend   `vllm` on PATH, devices by ASCEND_RT_VISIBLE_DEVICES (the default)
#   ENGINE=gpu      `vllm` on PATH, devices by CUDA_VISIBLE_DEVICES
#   ENGINE=cpu      vLLM on the CPU: VLLM_PYTHON, or .venv-vllm of the checkout, or `vllm` on PATH
#   ENGINE=sim      the simulated engine: no accelerator, no weights, MODEL may be any name
#
#   PYTHON          a Python that has PyMotor (.venv of the checkout, or python3)
#   START_SECONDS   how long run_all.sh waits for the engines (900)

ENGINE="${ENGINE:-ascend}"
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    [[ ! -x "$checkout/.venv/bin/python" ]] || PYTHON="$checkout/.venv/bin/python"
fi

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 2
}

# Whether the engine serves the user's own model on an accelerator.
accelerated() { [[ "$ENGINE" == ascend || "$ENGINE" == gpu ]]; }

case "$ENGINE" in
    ascend | gpu) vllm=(vllm) ;;
    cpu)
        if [[ -n "${VLLM_PYTHON:-}" ]]; then
            vllm=("$VLLM_PYTHON" -m vllm.entrypoints.cli.main)
        elif [[ -x "$checkout/.venv-vllm/bin/python" ]]; then
            vllm=("$checkout/.venv-vllm/bin/python" -m vllm.entrypoints.cli.main)
        else
            vllm=(vllm)
        fi
        ;;
    sim) vllm=("$PYTHON" -m pymotor sim-engine) ;;
    *) fail "ENGINE=$ENGINE is not known: ascend, gpu, cpu or sim" ;;
esac

# A value that printable_settings has seen, as a JSON string.
json() {
    local value="${1//\\/\\\\}"
    printf '"%s"' "${value//\"/\\\"}"
}

# Refuse settings (by name) that have characters which JSON does not take as they are.
printable_settings() {
    local name
    for name in "$@"; do
        [[ "${!name-}" != *[[:cntrl:]]* ]] || fail "$name has a control character: ${!name@Q}"
    done
}

# The path of the model: what was set, or the default of the guide, or for the CPU a tiny one that is made when missing.
choose_model() {
    if [[ "$ENGINE" == cpu && -z "${MODEL:-}" ]]; then
        MODEL="$checkout/build/tiny-qwen3-vl"
        "$PYTHON" -m pymotor make-tiny-model "$MODEL" >&2
    fi
    MODEL="${MODEL:-$1}"
    if accelerated && [[ "$MODEL" == /* && ! -e "$MODEL" ]]; then
        fail "there is no model at $MODEL; name yours: MODEL=/path/to/it (or try ENGINE=sim, which needs none)"
    fi
}

# The devices of this instance, as the engine's platform wants to be told.
use_devices() {
    case "$ENGINE" in
        ascend) export ASCEND_RT_VISIBLE_DEVICES="$1" ;;
        gpu) export CUDA_VISIBLE_DEVICES="$1" ;;
    esac
}

# Become `vllm serve` with these words. A proxy of the network is never meant between the parts of a fleet.
serve() {
    unset http_proxy https_proxy ftp_proxy all_proxy HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY
    local words=("$@")
    if [[ "$ENGINE" == cpu ]]; then
        export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}" # GiB
        export VLLM_CPU_OMP_THREADS_BIND="${VLLM_CPU_OMP_THREADS_BIND:-nobind}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
        export VLLM_USE_V2_MODEL_RUNNER=0 # on a CPU only the first runner knows ECExampleConnector
        export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" VLLM_NO_USAGE_STATS="${VLLM_NO_USAGE_STATS:-1}"
        words=("$1" --dtype float32 "${@:2}") # greedy answers are then the same whatever the batch
    fi
    command -v "${vllm[0]}" >/dev/null || fail "${vllm[0]} is not there: install vLLM, or try ENGINE=sim"
    exec "${vllm[@]}" serve "${words[@]}"
}

# Become one of the example proxies: its path below examples/, then its flags.
proxy() {
    exec "$PYTHON" "$checkout/examples/$1" "${@:2}"
}

# A host as it stands in a URL.
in_url() {
    if [[ "$1" == *:* ]]; then printf '[%s]' "$1"; else printf '%s' "$1"; fi
}

# Whether nobody listens at a URL; a server that is slow to answer does.
nobody_at() {
    local status=0
    curl --silent --noproxy '*' --max-time 10 --output /dev/null "$1" || status=$?
    ((status == 7))
}

answers() { curl --silent --fail --noproxy '*' --max-time 2 --output /dev/null "$1"; }

started=()

# Start a script in a process group of its own; end_all ends it and whatever it started.
start() {
    setsid bash "$@" &
    started+=("$!")
}

any_left() {
    local pid
    for pid in "${started[@]}"; do
        if kill -0 -- "-$pid" 2>/dev/null || kill -0 "$pid" 2>/dev/null; then return 0; fi
    done
    return 1
}

signal_all() {
    local pid
    for pid in "${started[@]}"; do
        kill "-$1" -- "-$pid" 2>/dev/null || kill "-$1" "$pid" 2>/dev/null || true # the group is made a moment after
    done
}

# SIGTERM to all, SIGKILL to what is left after half a minute.
end_all() {
    trap '' INT TERM HUP
    signal_all TERM
    local ends=$((SECONDS + 30))
    while any_left && ((SECONDS < ends)); do sleep 0.1; done
    signal_all KILL
}

# Whether every started script still runs.
all_run() {
    local pid
    for pid in "${started[@]}"; do kill -0 "$pid" 2>/dev/null || return 1; done
}

# Wait until each URL answers 200. Fails when a started script ends before, or after START_SECONDS.
wait_until_ready() {
    local url ends=$((SECONDS + ${START_SECONDS:-900}))
    for url in "$@"; do
        until answers "$url"; do
            all_run || fail "a part ended before $url answered; what it said is above"
            ((SECONDS < ends)) || fail "$url did not answer within ${START_SECONDS:-900} s"
            sleep 0.2
        done
    done
}

# Run until Ctrl-C, SIGTERM or the end of any part, then end the others. (`wait -n` forgets who ended before it.)
run_until_one_ends() {
    while all_run; do sleep 0.5; done
    printf '%s: a part has ended; ending the others\n' "$(basename "$0")" >&2
    exit 1
}
