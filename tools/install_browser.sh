#!/usr/bin/env bash
# Installs Chromium, in which the dashboard's tests look at its page. Ends with 0 when there is one, 1 with what to do
# otherwise.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then
        exit 0
    fi
done

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=1 -o Acquire::http::Timeout=15)
    if "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends chromium && command -v chromium >/dev/null; then
        exit 0
    fi
    echo "apt-get could not install Chromium; it says why above." >&2
fi

echo "No Chromium is here, and only root can install one with apt-get. As root: apt-get install chromium; or set" \
    "PYMOTOR_BROWSER to the program of one." >&2
exit 1
