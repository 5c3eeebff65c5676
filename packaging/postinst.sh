#!/bin/sh
set -e

case "$1" in
configure | abort-upgrade | abort-remove | abort-deconfigure)
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
    # So that a purge forgets what an administrator has enabled.
    for unit in @other_units@; do
        deb-systemd-helper update-state $unit >/dev/null || true
    done
    for unit in @units_of_users@; do
        deb-systemd-helper --user update-state $unit >/dev/null || true
    done
    if [ -d /run/systemd/system ]; then
        if [ -n "$2" ]; then
            deb-systemd-invoke try-restart @services@ >/dev/null || true
        fi
        deb-systemd-invoke start @enabled@ >/dev/null || true
    fi
    ;;
esac
