#!/usr/bin/env bash
# All three parts on this machine, until Ctrl-C. Settings: ../settings.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=../settings.sh
source "$here/../settings.sh"

trap end_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
use_model
start "$here/run_e.sh"
start "$here/run_pd.sh"
wait_until_ready "$e_url/health" "$pd_url/health"
start "$here/run_proxy.sh"
wait_until_ready "$proxy_url/healthcheck"
printf 'ready on %s\n' "$proxy_url"
run_until_one_ends
