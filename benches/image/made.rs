//! Images to take figures of: OCI layouts of a large layer and small ones.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{Image, Store};

use crate::common::contender::status;
use crate::common::{Bench, Result};

/// A layer, as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) file: PathBuf,
    /// What stands behind "tar" in its media type.
    kind: &'static str,
    diff_id: String,
}

/// Where the tests have their large image, or how to make it.
fn large_layout() -> Result<PathBuf> {
    let cache = std::env::var_os("BELLJAR_TEST_CACHE").unwrap_or_else(|| "/var/cache/belljar-test".into());
    let images =
        std::env::var_os("BELLJAR_TEST_IMAGES").map_or_else(|| Path::new(&cache).join("images"), PathBuf::from);
    let large = images.join("large");
    match large.join("index.json").exists() {
        true => Ok(large),
        false => Err(format!(
            "there is no large image at {}: as root, run tests/make-rootfs.sh and tests/make-images.sh, as ci/test does, \
             or set BELLJAR_TEST_IMAGES (tests/README.md)",
            large.display()
        )
        .into()),
    }
}

/// The large layer: Debian, 120 MB, in gzip.
pub(crate) fn large(bench: &Bench) -> Result<Blob> {
    let blobs = fs::read_dir(large_layout()?.join("blobs/sha256"))?.collect::<std::io::Result<Vec<_>>>()?;
    let size = |entry: &fs::DirEntry| entry.metadata().map_or(0, |metadata| metadata.len());
    let file = blobs.iter().max_by_key(|entry| size(entry)).ok_or("the large image is empty")?.path();
    Ok(Blob { diff_id: sha256(&plain(bench, &file)?)?, file, kind: "+gzip" })
}

/// The large layer without compression.
fn plain(bench: &Bench, layer: &Path) -> Result<PathBuf> {
    let plain = bench.path("large.tar")?;
    if !plain.exists() {
        status(Command::new("gzip").arg("-dc").arg(layer).stdout(File::create(&plain)?))?;
    }
    Ok(plain)
}

/// The same layer without compression, and in zstd.
pub(crate) fn recompressed(bench: &Bench, large: &Blob) -> Result<[Blob; 2]> {
    let (plain, zstd) = (plain(bench, &large.file)?, bench.path("large.tar.zst")?);
    status(Command::new("zstd").arg("-q").arg(&plain).arg("-o").arg(&zstd))?;
    let diff_id = || large.diff_id.clone();
    Ok([Blob { file: plain, kind: "", diff_id: diff_id() }, Blob { file: zstd, kind: "+zstd", diff_id: diff_id() }])
}

/// A directory with the files of the large layer, and the program.
pub(crate) fn directory(bench: &Bench, large: &Blob) -> Result<PathBuf> {
    let tree = bench.path("directory")?;
    if !tree.exists() {
        fs::create_dir(&tree)?;
        status(Command::new("tar").arg("-C").arg(&tree).arg("-xzf").arg(&large.file))?;
        fs::copy(bench.noop()?, tree.join("noop"))?;
    }
    Ok(tree)
}

/// A small layer; the first of them has what a root needs, and the program.
pub(crate) fn small(bench: &Bench, number: usize) -> Result<Blob> {
    let tree = bench.path(&format!("tree-{number}"))?;
    fs::create_dir_all(tree.join("etc"))?;
    fs::write(tree.join(format!("etc/{number}")), number.to_string())?;
    if number == 0 {
        ["proc", "dev", "tmp"].into_iter().try_for_each(|dir| fs::create_dir_all(tree.join(dir)))?;
        fs::copy(bench.noop()?, tree.join("noop"))?;
    }
    packed(bench, &tree)
}

/// A directory as a layer without compression.
pub(crate) fn packed(bench: &Bench, tree: &Path) -> Result<Blob> {
    let name = tree.file_name().ok_or("a tree has a name")?.to_string_lossy();
    let file = bench.path(&format!("{name}.layer"))?;
    status(Command::new("tar").arg("-C").arg(tree).arg("-cf").arg(&file).arg("."))?;
    Ok(Blob { diff_id: sha256(&file)?, file, kind: "" })
}

/// An image of these layers, the lowest first.
pub(crate) fn layout(bench: &Bench, name: &str, layers: &[Blob]) -> Result<PathBuf> {
    let dir = bench.path(name)?;
    fs::create_dir_all(dir.join("blobs/sha256"))?;
    let platform = Image::open(large_layout()?)?.platform().to_owned();
    let (os, architecture) = platform.split_once('/').ok_or("the platform has two parts")?;
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!(r#""sha256:{}""#, layer.diff_id)).collect();
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"{os}","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let config = document(&dir, "config", &config)?;
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| add(&dir, &format!("layer.v1.tar{}", layer.kind), &layer.file))
        .collect::<Result<_>>()?;
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
    let manifest = document(&dir, "manifest", &manifest)?;
    fs::write(dir.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#))?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(dir)
}

fn document(dir: &Path, name: &str, content: &str) -> Result<String> {
    let file = dir.join(name);
    fs::write(&file, content)?;
    add(dir, &format!("{name}.v1+json"), &file)
}

/// Adds a blob, and returns what names it.
fn add(dir: &Path, kind: &str, file: &Path) -> Result<String> {
    let digest = sha256(file)?;
    let size = fs::copy(file, dir.join("blobs/sha256").join(&digest))?;
    Ok(format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{size}}}"#))
}

fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg("--").arg(file).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().ok_or("sha256sum fails")?.to_owned())
}

/// Unpacks an image into a store of the run's.
pub(crate) fn stored(store: &Path, layout: &Path) -> Result<Image> {
    Ok(Store::open(store)?.unpack(&Image::open(layout)?)?)
}

/// Runs `visit` for every regular file below a directory.
pub(crate) fn files(dir: &Path, visit: &mut dyn FnMut(&Path) -> Result) -> Result {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files(&entry.path(), visit)?;
        } else if kind.is_file() {
            visit(&entry.path())?;
        }
    }
    Ok(())
}
