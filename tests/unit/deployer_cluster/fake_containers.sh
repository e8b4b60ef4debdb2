#!/bin/sh
# `docker` and `ctr` for the guides: what they are given has to be there, what they write is there afterwards.
fail() { echo "${0##*/} $*: not as it is called" >&2; exit 1; }

case "${0##*/} $1 $2 $3 $4" in
    "docker pull registry.example.org/"* | "docker push registry.example.org/"*) [ $# = 2 ] ;;
    "docker build -f Containerfile -t") [ "$6" = --build-arg ] && [ -f Containerfile ] && [ -d "$8" ] ;;
    "docker save -o "*) [ $# = 4 ] && echo image >"$3" ;;
    "docker load -i "*) [ -s "$3" ] ;;
    "ctr -n k8s.io images import") [ -s "$5" ] ;;
    *) fail "$@" ;;
esac || fail "$@"
