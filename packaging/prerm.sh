#!/bin/sh
set -e

if [ "$1" = remove ]; then
    if [ -d /run/systemd/system ]; then
        deb-systemd-invoke stop @enabled@ @other_units@ @services@ >/dev/null || true
    fi
@before_removal@
fi
py3clean -p buswork
