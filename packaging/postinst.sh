#!/bin/sh
set -e

if [ "$1" = configure ]; then
    py3compile -p buswork @lib@
@after_install@
    for unit in @enabled@; do
        # At first, and later if nobody has disabled it.
        if deb-systemd-helper --quiet was-enabled $unit; then
            deb-systemd-helper enable $unit >/dev/null || true
        else
            deb-systemd-helper update-state $unit >/dev/null || true
        fi
    done
    for unit in @other_units@; do
        deb-systemd-helper update-state $unit >/dev/null || true
    done
    if [ -d /run/systemd/system ]; then
        if [ -n "$2" ]; then
            deb-systemd-invoke try-restart @services@ >/dev/null || true
        fi
        deb-systemd-invoke start @enabled@ >/dev/null || true
    fi
fi
