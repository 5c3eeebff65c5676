#!/bin/sh
set -e

if [ "$1" = remove ]; then
@after_removal@
fi
# Users stay: files may be theirs.
if [ "$1" = purge ]; then
    if command -v deb-systemd-helper >/dev/null; then
        deb-systemd-helper purge @enabled@ @other_units@ >/dev/null || true
        deb-systemd-helper --user purge @units_of_users@ >/dev/null || true
    fi
@purge@
fi
