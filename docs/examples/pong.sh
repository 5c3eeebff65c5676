#!/bin/sh
# An echo service, and a client of one, in shell.
#
#   pong.sh serve [NAME]         sends everything back
#   pong.sh send TEXT [NAME]     prints what comes back

case $1 in
serve)
    exec buswork ipc listen "${2:-pong}" --exec cat
    ;;
send)
    printf %s "${2?}" | buswork ipc send "${3:-pong}" --user-type 42 && echo
    ;;
*)
    sed -n '2,5s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
