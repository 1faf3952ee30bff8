#!/bin/sh
# Runs a command beside a docker daemon of its own: docker's answer, for the tests to compare with.
#
# usage: tests/dockerd.sh DIR COMMAND [ARGUMENT...]
#
# The daemon and the client are Debian's, in the root that $BELLJAR_TEST_DOCKER names, which is made by
#     INCLUDE=docker.io,docker-cli,containerd,runc tests/make-rootfs.sh ROOT trixie
# COMMAND runs in that root too, with DIR at /mnt, and its status is the script's. The daemon has namespaces of its own
# and keeps everything in memory: with the command, and however that ends, all of it is gone. It knows no image, and its
# containers have no network: `docker load` and `docker run --network none`.
set -eu

root=${BELLJAR_TEST_DOCKER:?names no root with a docker daemon}
dir=${1:?usage: dockerd.sh DIR COMMAND...}
shift

# The groups of its containers are the host's, and outlive the namespaces.
group=belljar-test-$$
trap 'exit 130' INT TERM
trap 'find /sys/fs/cgroup -depth -type d \( -path "*/$group" -o -path "*/$group/*" \) -exec rmdir {} +' EXIT

# The new init: it makes the root, where it goes to, and ends with the command.
# shellcheck disable=SC2016
unshare --mount --pid --net --ipc --uts --fork --kill-child sh -euc '
    root=$1 dir=$2 group=$3
    shift 3
    mount --make-rprivate /
    mount --bind "$root" "$root"
    for place in run tmp var/lib var/log; do mount -t tmpfs docker "$root/$place"; done
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount --bind "$dir" "$root/mnt"
    cd "$root"
    pivot_root . .
    umount -l .
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp DOCKER_BUILDKIT=0
    dockerd --iptables=false --ip6tables=false --bridge=none --cgroup-parent="/$group" >/tmp/dockerd.log 2>&1 &
    tries=0
    until docker version >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries = 150 ]; then cat /tmp/dockerd.log >&2; exit 125; fi
        sleep 0.2
    done
    cd /mnt
    "$@"
' sh "$root" "$dir" "$group" "$@"
