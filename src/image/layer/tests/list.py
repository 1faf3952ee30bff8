# Lists archives as Python's tarfile reads them: for each argument a line "= PATH", then a line for each member, then "." or,
# if it could not be read to the end, "!".
import sys, tarfile

def text(name):
    return name.encode("utf-8", "surrogateescape").hex() or "-"

KINDS = {tarfile.REGTYPE: "-", tarfile.AREGTYPE: "-", tarfile.CONTTYPE: "-", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l",
         tarfile.LNKTYPE: "h", tarfile.CHRTYPE: "c", tarfile.BLKTYPE: "b", tarfile.FIFOTYPE: "p"}

for path in sys.argv[1:]:
    print("=", path)
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                kind = KINDS.get(member.type, "?")
                device = (member.devmajor, member.devminor) if kind in "cb" else (0, 0)
                link = text(member.linkname) if kind in "lh" else "-"
                data = archive.extractfile(member).read() if kind == "-" else b""
                print(kind, member.size if kind == "-" else 0, member.mode & 0o7777, member.uid, member.gid,
                      int(member.mtime // 1), *device, text(member.name), link, sum(data))
        print(".")
    except Exception as error:
        print("!", type(error).__name__)
