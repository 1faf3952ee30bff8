#!/bin/sh
# Makes a minimal Debian userland in the directory DIR, unless it is there: what tests/it/distribution.rs runs.
#
# usage: tests/make-rootfs.sh DIR [SUITE]
#
# More packages come from $INCLUDE, and other architectures than the machine's from $ARCHITECTURES: lists with commas.
# With VARIANT=extract there are no others, and they are unpacked only.
# Needs mmdebstrap. Uses the Debian mirror that this machine's apt is configured with.
set -eu

dir=${1:?usage: make-rootfs.sh DIR [SUITE]}
suite=${2:-trixie}

# A word of it: sid's codename is that of the next release, and its name is of both.
if grep -qsw "$suite" "$dir/etc/os-release"; then
    echo "$dir is there"
    exit 0
fi

# A source whose path is /debian, as on every mirror: other sources of this machine are no use for the new system.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/*$' || true)

# Beside the directory, and renamed when it is whole: an interrupted run leaves no half of a system there.
mkdir -p "$(dirname "$dir")"
new=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$new"' EXIT
# Without privilege mmdebstrap needs a user namespace with subordinate ids, and must be able to write there.
if [ "$(id -u)" = 0 ]; then mode=root; else mode=unshare; chmod 0777 "$new"; fi
# An empty mirror is mmdebstrap's own default. A mirror that stands still is as good: its signature is checked, its age is
# no matter here.
mmdebstrap --quiet --mode="$mode" --variant="${VARIANT:-minbase}" --aptopt='Acquire::Check-Valid-Until "false"' \
    ${INCLUDE:+--include="$INCLUDE"} ${ARCHITECTURES:+--architectures="$ARCHITECTURES"} \
    "$suite" "$new" ${mirror:+"$mirror"}
# Device nodes can't be copied or read by everybody, and a sandbox has its own.
rm -rf "$new/dev"
mkdir "$new/dev"
chmod 0755 "$new"
rm -rf "$dir"
mv "$new" "$dir"
trap - EXIT
