#!/usr/bin/env bash
# Makes container images for the tests in the directory DIR, unless they are there: every form that real tools write.
#
# usage: tests/make-images.sh DIR
#
# Needs root, umoci, skopeo, buildah, busybox-static, musl-tools and python3. The large image is made of the Debian root
# at $BELLJAR_TEST_ROOTFS, and docker-hybrid.tar by the daemon in the root at $BELLJAR_TEST_DOCKER; each is left out
# where its root is not there. tests/README.md tells what is in DIR.
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022
# Of everything that the tools stamp with a time.
epoch=2026-01-01T00:00:00Z

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:?usage: make-images.sh DIR}
# Nothing is there where none is named.
rootfs=${BELLJAR_TEST_ROOTFS:-/nonexistent}
docker=${BELLJAR_TEST_DOCKER:-/nonexistent}

# What is there was made by these very scripts, and of as much.
made_by() {
    cat "$here"/{make-images.sh,make-layers.py,tell-tree,dockerd.sh} | sha256sum
    if [ -e "$rootfs/etc/os-release" ]; then echo large; fi
    if [ -e "$docker/usr/sbin/dockerd" ]; then echo docker; fi
}
if [ "$(cat "$dir/made-by" 2>/dev/null)" = "$(made_by)" ]; then
    echo "$dir is there"
    exit 0
fi

mkdir -p "$(dirname "$dir")"
# Beside the directory, and renamed when all is whole.
new=$(mktemp -d "$dir.XXXXXX")
work=$(mktemp -d)
trap 'rm -rf "$new" "$work"' EXIT
layout=$new/layout

umoci_quiet() { umoci --log=error "$@"; }
copy() { skopeo --insecure-policy --tmpdir "$work" copy -q "$@"; }
# The store is of plain directories: no mounts, and it is gone with the work.
store() { buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }

# An applet for every name that busybox has, the identities of a distroless image, and what the next layers change.
make_base() {
    local root=$1 applet
    mkdir -p "$root"/{bin,dev,etc,home/app,home/nonroot,proc,root,run,sys,tmp,usr/lib,usr/bin,var}
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    printf 'ID=belljar\nPRETTY_NAME="Made for tests"\n' >"$root/usr/lib/os-release"
    ln -s ../usr/lib/os-release "$root/etc/os-release"
    ln -s /run "$root/var/run"
    printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534::/nonexistent:/bin/false \
        nonroot:x:65532:65532::/home/nonroot:/bin/false app:x:1000:1000::/home/app:/bin/sh >"$root/etc/passwd"
    printf '%s\n' root:x:0: tty:x:5: staff:x:50:app nobody:x:65534: nonroot:x:65532: app:x:1000: extra:x:2000:nobody,app \
        >"$root/etc/group"
    chmod 1777 "$root/tmp"
    chmod 700 "$root/root" "$root/home/nonroot"
    chown 65532:65532 "$root/home/nonroot"
    chown 1000:1000 "$root/home/app"

    mkdir -p "$root"/data/{deleted-dir/sub,dir-to-file,dir-to-link,opaque/sub,mode-changes,empty-dir-to-file}
    cd "$root/data"
    for file in kept modified deleted deleted-dir/{file,sub/file} dir-to-file/file dir-to-link/file file-to-dir \
        file-to-link opaque/{lower,both,sub/lower} touched mode-changes/file; do
        echo "base: $file" >"$file"
    done
    echo "base: linked" >linked
    ln linked linked-too
    ln -s kept relative-link
    ln -s /data/kept absolute-link
    ln -s ../../../../../../etc/passwd climbing-link
    ln -s nowhere dangling-link
    echo "base: setuid" >setuid && chown 0:0 setuid && chmod 4755 setuid
    echo "base: setgid" >setgid && chown 0:42 setgid && chmod 2755 setgid
    echo "base: no mode" >no-mode && chmod 000 no-mode
    mkdir no-mode-dir && echo "base: in it" >no-mode-dir/file && chmod 000 no-mode-dir
    mkdir read-only-dir && echo "base: in it" >read-only-dir/file && chmod 555 read-only-dir
    echo "base: xattr" >xattr
    mkfifo fifo
    mknod null c 1 3
    mknod disk b 7 250
    : >empty
    : >$'not-utf-8-\xff\xfe'
    : >$'a new\nline'
    chown 1000:2000 kept
    python3 -c 'import os
os.setxattr("xattr", "user.color", b"blue")
os.setxattr("xattr", "user.bytes", b"\0\xff\n=")
os.setxattr("xattr", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))'
    cd "$OLDPWD"
}

# The ways in which a layer changes one below it.
change() {
    cd "$1/data"
    echo "second: modified" >modified
    echo "second: added" >added
    rm -r deleted deleted-dir empty-dir-to-file file-to-dir file-to-link
    echo "second: empty-dir-to-file" >empty-dir-to-file
    mkdir file-to-dir && echo "second: file" >file-to-dir/file
    ln -s kept file-to-link
    touch -d "$epoch" modified added empty-dir-to-file file-to-dir/file
    touch -h -d "$epoch" file-to-link file-to-dir .
    chmod 700 mode-changes
    chown 1000:1000 mode-changes
    touch -d 2026-02-02T00:00:00Z touched
    cd "$OLDPWD"
}

# What was in a directory is then below something else. Umoci writes whiteouts there, and docker refuses those.
replace() {
    cd "$1/data"
    rm -r dir-to-file dir-to-link
    echo "replaced: dir-to-file" >dir-to-file
    ln -s mode-changes dir-to-link
    touch -h -d "$epoch" dir-to-file dir-to-link .
    cd "$OLDPWD"
}

# The tree that umoci makes of a tag, which is what an unpacker may be compared to.
tell_tree() {
    umoci_quiet unpack --image "$layout:$1" "$work/told"
    "$here/tell-tree" "$work/told/rootfs" >"$new/trees/$1"
    rm -rf "$work/told"
}

make_layout() {
    local tag layer
    umoci_quiet init --layout "$layout"
    umoci_quiet new --image "$layout:base"
    umoci_quiet config --image "$layout:base" --history.created "$epoch" --os linux --architecture amd64 --config.env PATH=/bin --config.cmd /bin/sh
    umoci_quiet unpack --image "$layout:base" "$work/bundle"
    make_base "$work/bundle/rootfs"
    find "$work/bundle/rootfs" -exec touch -h -d "$epoch" {} +
    umoci_quiet repack --refresh-bundle --history.created "$epoch" --image "$layout:base" "$work/bundle"
    change "$work/bundle/rootfs"
    umoci_quiet repack --refresh-bundle --history.created "$epoch" --image "$layout:second" "$work/bundle"
    replace "$work/bundle/rootfs"
    umoci_quiet repack --refresh-bundle --history.created "$epoch" --image "$layout:replaced" "$work/bundle"

    # An opaque directory and a whiteout as umoci writes them.
    mkdir "$work/over"
    echo "opaque: both" >"$work/over/both"
    echo "opaque: upper" >"$work/over/upper"
    find "$work/over" -exec touch -d "$epoch" {} +
    umoci_quiet insert --history.created "$epoch" --image "$layout:second" --tag third --opaque "$work/over" /data/opaque
    umoci_quiet insert --history.created "$epoch" --image "$layout:third" --whiteout /data/kept

    # Layers by hand and by GNU tar: a tag each, on the layer `base`.
    "$here/make-layers.py" "$work/layers"
    for layer in "$work"/layers/*.tar; do
        tag=$(basename "$layer" .tar)
        umoci_quiet raw add-layer --history.created "$epoch" --image "$layout:base" --tag "$tag" "$layer"
    done
}

# Configurations, all of the same layers.
make_configs() {
    config() {
        umoci_quiet config --image "$layout:second" --tag "$@" --history.created "$epoch"
    }
    config app --config.user app --config.workingdir /home/app --config.entrypoint /bin/sh --config.entrypoint -c \
        --config.cmd 'echo "$GREETING from $(id -un) in $(pwd)"' --config.env 'GREETING=hello = world' \
        --config.env EMPTY= --config.volume /var/cache/app --config.volume /srv --config.stopsignal SIGINT \
        --config.label org.example.for=tests --config.exposedports 8080/tcp
    config nonroot --config.user 65532 --config.workingdir /home/nonroot --config.entrypoint /bin/id --clear config.cmd
    config user-group --config.user app:extra
    config user-ids --config.user 1000:2000
    config user-id-group --config.user 1234:staff
    config user-unknown --config.user nobody-knows
    # A directory that no layer has: an engine makes it.
    config workingdir-missing --config.workingdir /not/there
    config no-program --clear config.cmd
    # The same tree for another processor.
    umoci_quiet config --image "$layout:base" --tag arm64 --architecture arm64 --config.env PROCESSOR=arm64 \
        --history.created "$epoch"
}

# Of the time of this run, which umoci leaves in configurations, and of what no tag names any more.
clean() {
    local tag
    for tag in $(umoci ls --layout "$1"); do
        umoci_quiet config --image "$1:$tag" --no-history --created "$epoch"
    done
    umoci_quiet gc --layout "$1"
}

# One image index inside the index of the layout, with an image for each of two processors.
make_multi_platform() {
    store manifest create both >/dev/null
    store manifest add --os linux --arch amd64 both "oci:$layout:base" >/dev/null
    store manifest add --os linux --arch arm64 --variant v8 both "oci:$layout:arm64" >/dev/null
    store manifest push -q --all both "oci:$new/multi-platform:both" >/dev/null
}

# What a build with buildah's own steps gives, and what it pushes.
make_with_buildah() {
    printf '%s\n' 'FROM base' 'RUN rm -r /data/opaque && mkdir /data/opaque && echo built >/data/opaque/new' \
        'RUN rm /data/deleted && echo run >/data/modified' 'COPY upper /data/copied' 'USER app' 'ENTRYPOINT ["/bin/id"]' \
        >"$work/over/Containerfile"
    copy "oci:$layout:base" "containers-storage:[vfs@$work/store+$work/run]localhost/base"
    store bud -q --isolation chroot --layers --timestamp 1767225600 -t built "$work/over" >/dev/null
    "$here/tell-tree" "$(store mount "$(store from --pull-never built)")" >"$new/trees/buildah"
    store push -q built "docker-archive:$new/docker-buildah.tar:example/built:1" >/dev/null
    store push -q built "oci-archive:$new/oci-buildah.tar:built" >/dev/null
}

make_forms() {
    copy "oci:$layout:third" "oci-archive:$new/oci.tar:third"
    copy --dest-compress-format zstd "oci:$layout:third" "oci-archive:$new/oci-zstd.tar:third"
    copy --dest-decompress "oci:$layout:third" "dir:$work/dir"
    copy --dest-oci-accept-uncompressed-layers "dir:$work/dir" "oci:$new/oci-plain:third"
    copy "oci:$layout:third" "docker-archive:$new/docker-legacy.tar:example/third:1"
}

# What docker saves: of an image that it loaded, with a layer that it committed.
make_with_docker() {
    mkdir "$work/docker"
    copy "oci:$layout:second" "docker-archive:$work/docker/second.tar:example/second:1"
    # shellcheck disable=SC2016
    "$here/dockerd.sh" "$work/docker" sh -euc '
        docker load -q -i second.tar
        docker run --name changed --network none --user 0 --entrypoint /bin/sh example/second:1 -ec "
            cd /data
            rm -r opaque && mkdir opaque && echo docker >opaque/new
            rm deleted-dir -rf
            rm kept
            rm -r dir-to-file && echo docker >dir-to-file
            echo docker >>modified
            ln linked linked-again
            chown 1000:1000 mode-changes/file"
        docker commit --change "USER app" --change "WORKDIR /home/app" --change "CMD [\"/bin/id\"]" changed example/hybrid:1
        docker save -o hybrid.tar example/hybrid:1
        mkdir hybrid
        docker export "$(docker create --network none example/hybrid:1)" | tar -C hybrid --xattrs "--xattrs-include=*" -xf -
        # What docker adds to every container.
        cd hybrid
        rm .dockerenv etc/hosts etc/hostname etc/resolv.conf etc/mtab
        find dev -mindepth 1 -delete
    ' >/dev/null
    "$here/tell-tree" "$work/docker/hybrid" >"$new/trees/docker"
    mv "$work/docker/hybrid.tar" "$new/docker-hybrid.tar"
}

# The whole of a Debian root as one layer.
make_large() {
    tar -C "$rootfs" --sort=name --mtime="$epoch" --exclude='./dev/*' -cf "$work/large.tar" .
    umoci_quiet init --layout "$new/large"
    umoci_quiet new --image "$new/large:trixie"
    umoci_quiet config --image "$new/large:trixie" --history.created "$epoch" --config.cmd /bin/bash \
        --config.env PATH=/usr/sbin:/usr/bin:/sbin:/bin
    umoci_quiet raw add-layer --history.created "$epoch" --image "$new/large:trixie" "$work/large.tar"
    rm "$work/large.tar"
    clean "$new/large"
    copy "oci:$new/large:trixie" "oci-archive:$new/large.tar:trixie"
}

# A root of another libc: musl's loader, its list of directories, and a program with a library in one of them.
make_musl() {
    local root=$new/musl
    mkdir -p "$root"/{bin,etc,lib,opt/lib,proc,tmp,dev}
    cp -L /lib/ld-musl-x86_64.so.1 "$root/lib/"
    printf '/lib\n/opt/lib\n' >"$root/etc/ld-musl-x86_64.path"
    echo 'const char *greeting(void) { return "hello from a library"; }' >"$work/greeting.c"
    cat >"$work/hello.c" <<'C'
#include <errno.h>
#include <stdio.h>
#include <string.h>
const char *greeting(void);
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) puts(argv[i]);
    printf("%s: %s\n", greeting(), strerror(EILSEQ));
    return argc > 1 ? 3 : 0;
}
C
    musl-gcc -shared -fPIC -o "$root/opt/lib/libgreeting.so" "$work/greeting.c"
    musl-gcc -o "$root/bin/hello" "$work/hello.c" -L"$root/opt/lib" -lgreeting
    musl-gcc -static -o "$root/bin/hello-static" "$work/hello.c" "$work/greeting.c"
}

mkdir "$new/trees"
make_layout
make_configs
clean "$layout"
make_multi_platform
make_with_buildah
make_forms
make_musl
for tag in base second replaced third hand strict through v7 ustar gnu pax; do tell_tree "$tag"; done
if [ -e "$rootfs/etc/os-release" ]; then make_large; fi
if [ -e "$docker/usr/sbin/dockerd" ]; then make_with_docker; fi

made_by >"$new/made-by"
chmod -R a+rX "$new"
rm -rf "$dir"
mv "$new" "$dir"
trap - EXIT
rm -rf "$work"
