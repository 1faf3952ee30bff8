#!/usr/bin/env bash
# Makes small layers with the tools that people have, in every format that they write: make-corpus.sh DIR
#
# The fuzzers start from them, and the unit tests compare what we read in them with what others do. What a missing tool
# would have made is left out: GNU tar, gzip and Python are enough for most of it.
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022

out=$1
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/belljar-corpus-XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

# A tree with one of each, as anybody can make it.
mkdir -p tree/etc/empty tree/usr/bin
printf 'root:x:0:0::/:/bin/sh\n' >tree/etc/passwd
printf '#!/bin/sh\n' >tree/usr/bin/tool
chmod 4755 tree/usr/bin/tool
: >tree/etc/empty-file
ln -s ../usr/bin/tool tree/etc/link
ln -s "$(printf 'x%.0s' {1..150})" tree/etc/long-link
ln tree/usr/bin/tool tree/usr/bin/other
mkfifo tree/fifo
chmod 1777 tree/etc/empty
long=tree/$(printf 'directory-%.0s' {1..9})/$(printf 'file-%.0s' {1..19})
mkdir -p "$(dirname "$long")"
printf 'long\n' >"$long"
printf 'bytes' >"tree/$(printf 'na\xc3\xafve \xff\n')"
: >tree/etc/.wh.gone
: >tree/usr/.wh..wh..opq
find tree -exec touch -h -d '2024-02-29 12:34:56.789' {} +
touch -d '1969-12-31 23:59:58.25' tree/etc/passwd

for format in v7 ustar oldgnu gnu posix; do
    # Version 7 and ustar leave out what they have no place for, and say so.
    tar --format=$format --sort=name -C tree -cf "$out/tar-$format.tar" . 2>/dev/null || true
    tar --format=$format --sort=name --owner=:3000000 --group=:4000000 -C tree -cf "$out/tar-$format-ids.tar" \
        usr 2>/dev/null || true
done
tar --format=posix --xattrs --pax-option=globexthdr.name=global,comment=why -C tree -cf "$out/tar-global.tar" etc
tar --format=gnu --no-recursion -b1 -C tree -cf "$out/tar-one.tar" etc/passwd
truncate -s 1M sparse
for version in 0.0 0.1 1.0; do
    tar --format=posix --sparse --sparse-version=$version -cf "$out/tar-sparse-$version.tar" sparse
done
tar --format=gnu --sparse -cf "$out/tar-sparse-gnu.tar" sparse

for archive in tar-gnu tar-posix; do
    gzip -nc "$out/$archive.tar" >"$out/$archive.tar.gz"
    if command -v zstd >/dev/null; then zstd -qc "$out/$archive.tar" >"$out/$archive.tar.zst"; fi
done
head -c 5000 "$out/tar-gnu.tar" | gzip -nc >"$out/members.tar.gz"
tail -c +5001 "$out/tar-gnu.tar" | gzip -nc >>"$out/members.tar.gz"
if command -v bsdtar >/dev/null; then
    for format in v7 ustar gnutar pax; do
        bsdtar --format $format -C tree -cf "$out/bsdtar-$format.tar" . 2>/dev/null || true
    done
fi

python3 - "$out" <<'PYTHON'
import io, sys, tarfile

def members():
    def info(name, kind, **fields):
        member = tarfile.TarInfo(name)
        member.type = kind
        for field, value in fields.items():
            setattr(member, field, value)
        return member
    yield info("dir/", tarfile.DIRTYPE, mode=0o755, mtime=1700000000), b""
    yield info("dir/file", tarfile.REGTYPE, uid=65532, gid=65532, mtime=1700000000.5), b"content"
    yield info("dir/" + "n" * 120, tarfile.REGTYPE, mode=0o4711), b"long"
    yield info("link", tarfile.SYMTYPE, linkname="/" + "t" * 120), b""
    yield info("hard", tarfile.LNKTYPE, linkname="dir/file"), b""
    yield info("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666), b""
    yield info("disk", tarfile.BLKTYPE, devmajor=8, devminor=0), b""
    yield info("pipe", tarfile.FIFOTYPE), b""
    yield info("old", tarfile.AREGTYPE), b"old"
    yield info("contiguous", tarfile.CONTTYPE), b"whole"
    yield info("far", tarfile.REGTYPE, uid=2**31, gid=2**32 - 2, mtime=2**33), b""
    yield info("before", tarfile.REGTYPE, mtime=-1.5), b""
    yield info("na\u00efve \udcff", tarfile.REGTYPE), b"bytes"
    yield info("xattrs", tarfile.REGTYPE, pax_headers={
        "SCHILY.xattr.user.a": "1", "SCHILY.xattr.security.capability": "\x01", "comment": "c", "size": "5"}), b"12345"

for name, form in [("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)]:
    with tarfile.open(f"{sys.argv[1]}/python-{name}.tar", "w", format=form, errors="surrogateescape") as archive:
        for member, data in members():
            if member.isreg():
                member.size = len(data)
            try:
                archive.addfile(member, io.BytesIO(data))
            except ValueError:
                pass  # ustar has no place for it.
PYTHON
