//! Real input that is too large to be a part of the sources: images, distributions, and docker to compare with.
//!
//! `ci/test` makes all of it once, in a cache; `tests/README.md` tells what it is. The tests here look at it with other
//! programs: nothing can be learnt from input that is not what it is taken for.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use belljar::{Rootfs, Sandbox};

use crate::harness::{real, sh, temp_dir};
use crate::{for_root, skip};

/// The images, or the end of the test.
#[macro_export]
macro_rules! images {
    () => {
        match $crate::fixtures::images() {
            Some(images) => images,
            None => $crate::skip!("no images are at BELLJAR_TEST_IMAGES: run tests/make-images.sh as root"),
        }
    };
}

/// Docker's root, for `fixtures::docker`, or the end of the test.
#[macro_export]
macro_rules! docker {
    () => {
        match $crate::fixtures::root("docker") {
            Some(root) => root,
            None => $crate::skip!("no root with docker is in BELLJAR_TEST_CACHE: see tests/dockerd.sh"),
        }
    };
}

fn cache() -> PathBuf {
    std::env::var_os("BELLJAR_TEST_CACHE").map_or_else(|| "/var/cache/belljar-test".into(), PathBuf::from)
}

/// What `tests/make-images.sh` made, at `BELLJAR_TEST_IMAGES` or in the cache.
pub(crate) fn images() -> Option<PathBuf> {
    let path = std::env::var_os("BELLJAR_TEST_IMAGES").map_or_else(|| cache().join("images"), PathBuf::from);
    path.join("made-by").exists().then(|| real(path))
}

/// What `tests/make-rootfs.sh` made in the cache: `trixie`, `bullseye`, `sid`, and `docker`.
pub(crate) fn root(name: &str) -> Option<PathBuf> {
    let path = cache().join(name);
    path.join("etc/os-release").exists().then(|| real(path))
}

/// Runs a shell script beside a docker daemon, with `dir` as its current directory: for root only.
pub(crate) fn docker(root: &Path, dir: &Path, script: &str) -> Output {
    docker_command(root, dir, script).output().unwrap()
}

fn docker_command(root: &Path, dir: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", include_str!("../dockerd.sh"), "dockerd.sh"]).arg(dir).args(["sh", "-euc", script]);
    command.env("BELLJAR_TEST_DOCKER", root).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What is in a directory, as `tests/tell-tree` tells it.
pub(crate) fn tell_tree(dir: &Path) -> String {
    python(include_str!("../tell-tree"), &[dir])
}

/// Runs a Python program, and returns what it wrote. It must succeed.
fn python(program: &str, args: &[&Path]) -> String {
    let output = Command::new("python3").args(["-c", program]).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Looks at every image: what its index leads to is there, is as long as it was said to be, and has the digest that names
/// it; every layer, unpacked, has the digest that the configuration tells. Prints the number of layers of each.
const LOOK_AT_IMAGES: &str = r#"
import gzip, hashlib, json, os, subprocess, sys, tarfile

def layer(data):
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data

def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()

def blob(read, descriptor):
    data = read("blobs/" + descriptor["digest"].replace(":", "/"))
    assert len(data) == descriptor["size"] and digest(data) == descriptor["digest"], descriptor
    return data

def manifest(read, descriptor):
    found = json.loads(blob(read, descriptor))
    if "manifests" in found:
        return sum(manifest(read, inner) for inner in found["manifests"])
    config = json.loads(blob(read, found["config"]))
    layers = [layer(blob(read, inner)) for inner in found["layers"]]
    assert [digest(data) for data in layers] == config["rootfs"]["diff_ids"], descriptor
    return len(layers)

def legacy(read):
    layers = 0
    for found in json.loads(read("manifest.json")):
        config = json.loads(read(found["Config"]))
        assert [digest(read(name)) for name in found["Layers"]] == config["rootfs"]["diff_ids"]
        layers += len(found["Layers"])
    return layers

def look(name, names, read):
    layers = 0
    if "index.json" in names:
        assert json.loads(read("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
        layers += sum(manifest(read, inner) for inner in json.loads(read("index.json"))["manifests"])
        for blob in names:
            if blob.startswith("blobs/sha256/") and blob[13:]:
                assert digest(read(blob)) == "sha256:" + blob[13:], blob
    if "manifest.json" in names:
        layers += legacy(read)
    print(name, layers)

root = sys.argv[1]
for name in sorted(os.listdir(root)):
    path = os.path.join(root, name)
    if name.endswith(".tar"):
        with tarfile.open(path) as tar:
            look(name, [entry.name for entry in tar if entry.isfile()], lambda name: tar.extractfile(name).read())
    elif os.path.exists(path + "/index.json"):
        names = [os.path.relpath(os.path.join(dir, name), path) for dir, _, files in os.walk(path) for name in files]
        look(name, names, lambda name: open(os.path.join(path, name), "rb").read())
"#;

#[test]
fn every_blob_of_the_images_is_what_its_name_says() {
    let images = images!();
    let mut found = python(LOOK_AT_IMAGES, &[&images]);
    for optional in ["large", "large.tar"] {
        match found.contains(&format!("{optional} 1\n")) {
            true => found = found.replace(&format!("{optional} 1\n"), ""),
            false => skip!("there is no image {optional}: it is made of the root at BELLJAR_TEST_ROOTFS"),
        }
    }
    match found.contains("docker-hybrid.tar 6\n") {
        // Of two papers that name three layers each.
        true => found = found.replace("docker-hybrid.tar 6\n", ""),
        false => skip!("there is no image docker-hybrid.tar: it is made in the root at BELLJAR_TEST_DOCKER"),
    }
    let all = "docker-buildah.tar 4\ndocker-legacy.tar 4\nlayout 43\nmulti-platform 2\noci-buildah.tar 4\n\
               oci-plain 4\noci-zstd.tar 4\noci.tar 4\n";
    assert_eq!(found, all);
}

#[test]
fn docker_makes_the_trees_that_umoci_makes() {
    for_root!();
    let (images, docker_root) = (images!(), docker!());
    let dir = temp_dir();
    // Docker takes another's symbolic link for a directory of its own in `through`, and refuses the others.
    let tags = ["base", "second", "third", "hand", "v7", "ustar", "gnu", "pax"];
    for tag in tags {
        let [from, to] = [("oci", images.join("layout"), tag), ("docker-archive", dir.path().join(tag), "t/image")]
            .map(|(form, path, tag)| format!("{form}:{}:{tag}", path.display()));
        let copied = Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &from, &to]).status().unwrap();
        assert!(copied.success(), "{tag}");
    }
    let script = "for tag in *; do
            docker load -q -i $tag >/dev/null; mkdir tree-$tag
            docker export $(docker create --network none t/image) | tar -C tree-$tag --xattrs --xattrs-include='*' -xf -
            cd tree-$tag
            rm .dockerenv etc/hosts etc/hostname etc/resolv.conf etc/mtab
            find dev -mindepth 1 -delete
            cd ..
        done";
    let output = docker(&docker_root, dir.path(), script);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for tag in tags {
        let told = std::fs::read_to_string(images.join("trees").join(tag)).unwrap();
        assert!(told.contains("'data/relative-link' -> 'kept'") && told.contains("user.color=626c7565"), "{told}");
        // The one thing that docker does not export.
        let without = |line: &str| line.split(" user.").next().unwrap().to_owned();
        let told: Vec<_> = told.lines().map(without).collect();
        let docker = tell_tree(&dir.path().join(format!("tree-{tag}")));
        assert_eq!(docker.lines().collect::<Vec<_>>(), told, "{tag}");
    }
}

#[test]
fn docker_leaves_nothing_behind() {
    for_root!();
    let (images, docker_root) = (images!(), docker!());
    let before = crate::harness::mounts();
    let script = "docker load -q -i docker-legacy.tar >/dev/null
        docker run -d --network none example/third:1 sleep 1000 >/dev/null
        docker run --network none --user nonroot example/third:1 sh -c 'id -u; id -g'
        find /sys/fs/cgroup -type d -path '*/belljar-test-*/*' | grep -q .
        exit 7";
    let child = docker_command(&docker_root, &images, script).spawn().unwrap();
    let group = format!("*/belljar-test-{}", child.id());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"65532\n65532\n"[..], Some(7)), "{said}");
    assert_eq!(crate::harness::mounts(), before);
    let left = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", &group]).output().unwrap();
    assert_eq!(String::from_utf8(left.stdout).unwrap(), "");
}

#[test]
fn other_libcs_run_in_their_own_roots() {
    for (suite, mark) in [("bullseye", "2.31"), ("trixie", "2.41"), ("sid", "/sid")] {
        let Some(root) = root(suite) else {
            skip!("no root {suite} is in BELLJAR_TEST_CACHE: run tests/make-rootfs.sh for it")
        };
        let version =
            sh(&Sandbox::new().rootfs(Rootfs::dir(root)), "ldd --version | head -n 1; cat /etc/debian_version");
        println!("{suite}: {version}");
        assert!(version.contains(mark), "{suite}: {version}");
    }
    let musl = Sandbox::new().rootfs(Rootfs::dir(images!().join("musl")));
    for program in ["/bin/hello", "/bin/hello-static"] {
        let output = musl.command(program).arg("first").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        // The words for EILSEQ are musl's own; glibc has others.
        assert_eq!((&*text, output.outcome.code()), ("first\nhello from a library: Illegal byte sequence\n", Some(3)));
    }
}
