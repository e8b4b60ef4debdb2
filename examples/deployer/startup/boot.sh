#!/bin/bash
# Starts one part of PyMotor in its pod: ROLE says which, the arguments of this script go to its program.
# What is in env.json comes as the container's environment; nothing here is written by deploy.py.
#
#   ROLE                  controller, coordinator, encode, prefill, decode, union, kv_pool, kv_conductor,
#                         SINGLE_CONTAINER
#   CANN_INSTALL_PATH     where CANN is (/usr/local/Ascend); its environment is set where it is there
#   HCCL_PATH             where the table of this pod's devices is written; not set where there are no such devices
#   MOTOR_LOG_ROOT_PATH   where engines' logs go, in a directory for each pod; without it, a temporary one

set -euo pipefail

fail() {
    printf 'boot.sh: %s\n' "$1" >&2
    exit 1
}

set_accelerator_environment() {
    local root="${CANN_INSTALL_PATH:-/usr/local/Ascend}" file
    for file in "$root/cann/set_env.sh" "$root/ascend-toolkit/set_env.sh" "$root/nnal/atb/set_env.sh"; do
        if [[ -r "$file" ]]; then
            # These scripts read variables that may be unset, and test things that may fail.
            set +eu
            # shellcheck source=/dev/null
            source "$file"
            set -eu
        fi
    done
    # The driver's libraries come from the node, not from the image.
    if [[ -d "$root/driver/lib64" ]]; then
        export LD_LIBRARY_PATH="$root/driver/lib64:$root/driver/lib64/driver:$root/driver/lib64/common${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    fi
}

# HCCL's table of the devices that this pod has, which the NodeManager reports. Engines whose connector needs none
# start without it.
write_device_table() {
    [[ -n "${HCCL_PATH:-}" ]] || return 0
    if ! pymotor ranktable collect --hccl --local-host "${POD_IP:-127.0.0.1}" --output "$HCCL_PATH"; then
        printf 'boot.sh: no device table in %s, see above; connectors that need one will say so\n' "$HCCL_PATH" >&2
    fi
}

case "${ROLE:-}" in
    controller) exec pymotor controller "$@" ;;
    coordinator) exec pymotor coordinator "$@" ;;
    encode | prefill | decode | union)
        set_accelerator_environment
        write_device_table
        if [[ -n "${MOTOR_LOG_ROOT_PATH:-}" ]]; then
            logs="$MOTOR_LOG_ROOT_PATH/${POD_NAME:-$HOSTNAME}"
            if mkdir -p "$logs" 2>/dev/null && [[ -w "$logs" ]]; then
                set -- --log-dir "$logs" "$@"
            else
                printf 'boot.sh: %s cannot be written to, logs of engines are temporary\n' "$logs" >&2
            fi
        fi
        exec pymotor node-manager "$@"
        ;;
    SINGLE_CONTAINER)
        set_accelerator_environment
        exec pymotor up "$@"
        ;;
    kv_pool)
        set_accelerator_environment
        exec mooncake_master "$@"
        ;;
    kv_conductor) exec pymotor kv-conductor --host 0.0.0.0 "$@" ;;
    "") fail "ROLE is not set" ;;
    *) fail "ROLE=$ROLE is not known: controller, coordinator, encode, prefill, decode, union, kv_pool, kv_conductor or SINGLE_CONTAINER" ;;
esac
