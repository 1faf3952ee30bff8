#!/usr/bin/env bash
# Makes what each fuzzer starts from: fuzz/make-corpus.sh, and then
#     cargo +nightly fuzz run --sanitizer none TARGET
# as root, for `layer_applier` to be able to give files away. No sanitizer: there is no unsafe code in what they run.
set -euo pipefail
cd "$(dirname "$0")"

mkdir -p corpus/{layer_reader,layer_applier,elf,manifest}
../src/image/layer/tests/make-corpus.sh corpus/layer_reader
cp corpus/layer_reader/* corpus/layer_applier/
# A link to what only the layer below has, and links that lead out.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/dir"
echo below >"$work/dir/file"
ln "$work/dir/file" "$work/linked"
ln -s ../../../../../canary "$work/up"
tar -C "$work" -cf "$work/links.tar" ./up ./linked ./dir/file
cp "$work/links.tar" corpus/layer_applier/links.tar
python3 - corpus/layer_applier <<'PYTHON'
import sys, tarfile

def write(name, *members):
    with tarfile.open(f"{sys.argv[1]}/{name}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for path, kind, link in members:
            member = tarfile.TarInfo(path)
            member.type, member.linkname, member.mode = kind, link, 0o755
            archive.addfile(member)

link, hard, dir, file = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.REGTYPE
write("copied", ("copy", hard, "dir/file"), ("out/file", file, ""), ("copy2", hard, "out/file"), ("copy3", hard, "up"))
write("through", ("way", link, "/"), ("way/canary", file, ""), ("way", dir, ""), ("way/dir", dir, ""))
write("again", ("a", dir, ""), ("a/b", file, ""), ("a", link, "../../canary"), ("a/file", file, ""), ("a", hard, "a/b"))
write("hidden", (".wh.a", file, ""), ("a", dir, ""), ("a/.wh..wh..opq", file, ""), ("b/.wh.c", file, ""), ("b", link, "/"))
write("root", (".", dir, ""), ("./.wh..wh..opq", file, ""), ("./dir", link, "canary"), ("dir/x", hard, "dir"))
PYTHON

# The smallest programs: one with a loader, a library with names, and one of 32 bits.
cat >"$work/a.s" <<'ASM'
.globl _start
_start: ret
ASM
for bits in 64:x86_64 32:i386; do
    as --"${bits%:*}" -o "$work/a.o" "$work/a.s"
    link() { ld -m "elf_${bits#*:}" -z noseparate-code -s "$@"; }
    link -shared -soname me.so -o "$work/libone.so" "$work/a.o"
    link -shared -soname me.so -rpath '$ORIGIN:/opt' -o "corpus/elf/library-${bits%:*}" "$work/a.o" "$work/libone.so"
    link -pie -dynamic-linker /lib/ld.so --disable-new-dtags -rpath /opt/lib -z nodefaultlib \
        -o "corpus/elf/program-${bits%:*}" "$work/a.o" "$work/libone.so"
    link -o "corpus/elf/static-${bits%:*}" "$work/a.o"
done

# A byte for the form, and documents with a zero byte between them: see fuzz_targets/manifest.rs.
image='application/vnd.oci.image'
blob() { printf '{"mediaType":"%s","digest":"@%s","size":#%s%s}' "$image.$1" "$2" "$2" "${3:-}"; }
config='{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","config":{"User":"a:b","Env":["A=b"],
    "Entrypoint":["/a"],"Cmd":["b"],"WorkingDir":"/w","Volumes":{"/v":{}},"StopSignal":"SIGTERM","Labels":{"l":"m"}},
    "rootfs":{"type":"layers","diff_ids":["@'
name='{"org.opencontainers.image.ref.name":"name:1"}'
platform='{"os":"linux","architecture":"amd64","variant":"v8"}'
{
    printf '\0{"schemaVersion":2,"manifests":[%s]}\0' "$(blob index.v1+json 1 ",\"annotations\":$name")"
    printf '{"schemaVersion":2,"manifests":[%s]}\0' "$(blob manifest.v1+json 2 ",\"platform\":$platform")"
    printf '{"schemaVersion":2,"config":%s,"layers":[%s]}\0' "$(blob config.v1+json 3)" "$(blob layer.v1.tar 4)"
    printf '%s4"]}}\0layer' "$config"
} >corpus/manifest/nested
{
    printf '\0{"schemaVersion":2,"manifests":[%s]}\0' "$(blob manifest.v1+json 1)"
    printf '{"schemaVersion":2,"config":%s,"layers":[%s]}\0' "$(blob config.v1+json 2)" "$(blob layer.v1.tar+gzip 3)"
    printf '%s3"]}}\0\x1f\x8b' "$config"
} >corpus/manifest/one
printf '\1[{"Config":"1","RepoTags":["a:1"],"Layers":["2"]}]\0%s2"]}}\0layer' "$config" >corpus/manifest/docker
for archive in corpus/layer_reader/python-*.tar; do
    { printf '\2'; cat "$archive"; } >"corpus/manifest/$(basename "$archive")"
done
