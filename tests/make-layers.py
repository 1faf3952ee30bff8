#!/usr/bin/env python3
"""Makes layers that no tool for images writes when it is asked to, in a directory: a tar file each.

usage: tests/make-layers.py DIR

`hand` holds what the specification allows and is easily got wrong. `strict` holds what it allows and docker refuses: a
hard link to a file of a layer below, and whiteouts behind what they must not hide. `through` has a file below a name that is a symbolic
link in the layer `base`. `v7`, `ustar`, `gnu` and `pax` are the forms that GNU tar can write. Of its two ways to tell a sparse
file, engines take the one in `pax`; that of `gnu-sparse`, a type of entry of its own, is refused by them.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile

# 2026-01-01.
EPOCH = 1767225600
# More than the 100 bytes of a name in the first form of tar, and more than the 255 that the next one can split.
LONG_NAME = "long-" + "n" * 150
LONG_PATH = "/".join(["data/deep"] + ["directory-" + "d" * 80] * 4 + [LONG_NAME])


def member(name, **fields):
    info = tarfile.TarInfo(name)
    info.mtime = EPOCH
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write(path, members):
    """Writes a tar file of members, each as it stands: the name too, which tarfile would make plain."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def file(name, content="", **fields):
    return member(name, **fields), content.encode()


def directory(name, **fields):
    return member(name, type=tarfile.DIRTYPE, **{"mode": 0o755, **fields}), b""


def link(name, target, type=tarfile.LNKTYPE):
    return member(name, type=type, linkname=target), b""


def hand(path):
    write(path, [
        directory("data/opaque"),
        file("data/opaque/both", "hand: both"),
        # Behind what it must not hide.
        file("data/opaque/.wh..wh..opq"),
        # Before what this same layer adds: a whiteout is for the layers below alone.
        file("data/.wh.deleted"),
        file("data/deleted", "hand: deleted, and made again"),
        # Another type of file takes the place, and all that was below it is gone.
        file("data/dir-to-file", "hand: dir-to-file"),
        link("data/dir-to-link", "mode-changes", tarfile.SYMTYPE),
        directory("data/file-to-dir"),
        file("data/file-to-dir/file", "hand: file"),
        link("data/file-to-link", "kept", tarfile.SYMTYPE),
        file("data/.wh.deleted-dir"),
        file("data/.wh.never-was"),
        file("data/hard", "hand: hard"),
        link("data/hard-to-same", "data/hard"),
        file("./data/with-a-dot", "hand: ./"),
        file("data/parents/have/no/entry", "hand: parents"),
        file("data/all-modes", "hand: modes", mode=0o7777, uid=65532, gid=65532),
        directory("data/sticky-dir", mode=0o3777, gid=50),
        file("data/" + "\udcff\udcfe-not-utf-8", "hand: bytes"),
        # A name that only looks like a whiteout.
        file("data/wh.plain", "hand: plain"),
    ])


def strict(path):
    write(path, [
        link("data/hard-to-lower", "data/kept"),
        file("data/modified", "strict: modified"),
        file("data/.wh.modified"),
        directory("data/deleted-dir/sub"),
        file("data/deleted-dir/sub/file", "strict: sub/file"),
        file("data/.wh.deleted-dir"),
    ])


def through(path):
    write(path, [file("var/run/through", "through: var/run is a link to /run")])


def plain_tree(root):
    os.makedirs(f"{root}/data")
    with open(f"{root}/data/tar", "w") as out:
        out.write("tar: a file\n")
    os.link(f"{root}/data/tar", f"{root}/data/tar-too")
    os.symlink("tar", f"{root}/data/tar-link")
    os.chown(f"{root}/data/tar", 1000, 2000)


def split_tree(root):
    plain_tree(root)
    os.mkfifo(f"{root}/data/tar-fifo")
    os.makedirs(f"{root}/data/" + "p" * 90 + "/" + "q" * 50)
    with open(f"{root}/data/" + "p" * 90 + "/" + "q" * 50 + "/" + "r" * 90, "w") as out:
        out.write("tar: split\n")


def full_tree(root):
    split_tree(root)
    os.makedirs(os.path.dirname(f"{root}/{LONG_PATH}"))
    with open(f"{root}/{LONG_PATH}", "w") as out:
        out.write("tar: long\n")
    os.symlink("/" + LONG_PATH, f"{root}/data/{LONG_NAME}-link")
    os.link(f"{root}/{LONG_PATH}", f"{root}/data/{LONG_NAME}-hard")
    with open(os.fsencode(f"{root}/data/") + b"\xff\xfe-not-utf-8", "w") as out:
        out.write("tar: bytes\n")
    # Data, a hole, data, a hole to the end.
    with open(f"{root}/data/sparse", "wb") as out:
        out.write(b"begin")
        out.seek(4 << 20)
        out.write(b"middle")
        out.truncate(8 << 20)
    # More than the eight octal digits of the header can hold.
    with open(f"{root}/data/large-ids", "w") as out:
        out.write("tar: ids\n")
    os.chown(f"{root}/data/large-ids", 3000000, 4000000)


def with_attributes(root):
    full_tree(root)
    os.setxattr(f"{root}/data/tar", "user.color", b"red")
    os.setxattr(f"{root}/data/tar", "user.bytes", b"\x00\xff\n=")


def with_tar(path, form, tree, *options):
    with tempfile.TemporaryDirectory() as root:
        tree(root)
        for dir, dirs, files in os.walk(os.fsencode(root)):
            for name in dirs + files + [b"."]:
                os.utime(os.path.join(dir, name), (EPOCH, EPOCH), follow_symlinks=False)
        subprocess.run(["tar", "-C", root, f"--format={form}", "--sort=name", *options, "-cf", path, "data"], check=True)


dir = sys.argv[1]
os.makedirs(dir)
hand(f"{dir}/hand.tar")
strict(f"{dir}/strict.tar")
through(f"{dir}/through.tar")
with_tar(f"{dir}/v7.tar", "v7", plain_tree)
with_tar(f"{dir}/ustar.tar", "ustar", split_tree)
with_tar(f"{dir}/gnu.tar", "gnu", full_tree)
with_tar(f"{dir}/gnu-sparse.tar", "gnu", full_tree, "--sparse")
with_tar(f"{dir}/pax.tar", "pax", with_attributes, "--sparse", "--xattrs",
         "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")
