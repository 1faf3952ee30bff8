//! Container images: snapshots of a userland, as files that engines and their tools write.
//!
//! An image is read where it is: neither an archive nor a layer is unpacked to look into it. Nothing of it is used
//! before its digest is proven, and nothing that it names is ever fetched.

mod archive;
mod choose;
mod commit;
mod config;
pub(crate) mod digest;
mod document;
mod layer;
mod load;
mod platform;
mod run;
mod signal;
mod source;
mod stacked;
mod store;
mod users;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::Escaped;
pub use commit::Commit;
pub use config::ImageConfig;
use digest::{Digest, Verified};
pub use layer::UnpackLimits;
#[cfg(fuzzing)]
pub(crate) use layer::{Kind, LayerReader};
use load::Loaded;
pub(crate) use run::{Settled, settle};
use source::{Section, Source};
#[cfg(fuzzing)]
pub use store::Applier;
pub(crate) use store::Stored;
pub use store::{Collected, Ownership, Progress, Store};

/// An image: layers, one over the other, and how its author means it to be run.
///
/// It is opened in the forms that tools write:
///
/// | form | written by |
/// |---|---|
/// | a directory with an OCI layout | `umoci`, `skopeo copy .. oci:DIR`, `buildah push .. oci:DIR` |
/// | the same as a tar archive | `skopeo copy .. oci-archive:FILE`, `docker save` from 25 on, `ctr image export` |
/// | a docker archive | `docker save` before 25, `skopeo copy .. docker-archive:FILE`, `buildah push .. docker-archive:FILE` |
///
/// An archive is read in place, so it must not be compressed as a whole; its layers may be. The files stay open for as
/// long as the image is there. A clone is another handle on the same.
///
/// What is verified: every index, manifest and configuration against its digest and size when the image is opened,
/// every layer against its digest, its size and the digest of its content when it is unpacked. A layer that a store has already is
/// not read again: it is known by the digest of its content. A docker archive names no digest for its manifest: whoever
/// could have changed it, could have changed what it names; its layers that are compressed are read once when it is opened.
///
/// # Examples
///
/// ```no_run
/// use belljar::Image;
///
/// let image = Image::open("trixie.tar")?;
/// println!("{} for {}: {} bytes", image.digest(), image.platform(), image.size());
/// let image = Image::options().reference("example/app:2").platform("linux/arm64").open("many.tar")?;
/// # Ok::<(), belljar::Error>(())
/// ```
#[derive(Clone)]
pub struct Image {
    inner: Arc<Inner>,
    /// Its layers in a store, once they are there.
    stored: Option<Arc<Stored>>,
}

struct Inner {
    path: PathBuf,
    source: Source,
    loaded: Loaded,
    reference: Option<String>,
    platform: String,
}

/// Which image of several to open: see [`Image::options`].
#[derive(Clone, Debug, Default)]
pub struct ImageOptions {
    reference: Option<String>,
    platform: Option<String>,
}

impl ImageOptions {
    /// Chooses by name: one that the file gives to an image (`name:tag`, or what stands in
    /// `org.opencontainers.image.ref.name`), with or without `docker.io/library/` and `:latest`; or by digest.
    ///
    /// The default is the only image that there is for the platform.
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    /// Chooses by platform: `linux/amd64`, `linux/arm/v7`. The default is the machine's own.
    pub fn platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
        self
    }

    /// Opens the image.
    ///
    /// # Errors
    ///
    /// - [`InvalidImage`](ErrorKind::InvalidImage): the file is no image, breaks its format, a digest or a limit; or
    ///   it has none, or several, for what was asked: the error lists what there is.
    /// - [`InvalidPolicy`](ErrorKind::InvalidPolicy): what was asked for is no platform.
    /// - [`Os`](ErrorKind::Os): the file can't be read.
    ///
    /// # Kernel
    ///
    /// Linux 5.6 or later, for a directory.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        let words = format!("open {}", Escaped(path.as_os_str().as_bytes()));
        self.read(path).map_err(|error| error.within(&words).with_path(path))
    }

    fn read(&self, path: &Path) -> Result<Image> {
        let source = Source::open(path)?;
        let candidates = load::candidates(&source)?;
        let asked = choose::Asked::new(self.reference.as_deref(), self.platform.as_deref())?;
        let (loaded, reference) = choose::choose(&source, candidates, &asked)?;
        let platform = loaded.config.platform.to_string();
        let inner = Inner { path: path.to_owned(), source, loaded, reference, platform };
        Ok(Image { inner: Arc::new(inner), stored: None })
    }
}

impl Image {
    /// Opens the only image for this machine in a directory or an archive: [`ImageOptions::open`] without a choice.
    ///
    /// # Errors
    ///
    /// As for [`ImageOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        ImageOptions::default().open(path)
    }

    /// Begins the choice of one image among several.
    pub fn options() -> ImageOptions {
        ImageOptions::default()
    }

    /// The digest of the manifest; in a docker archive, which has none with a digest, that of the configuration.
    pub fn digest(&self) -> &str {
        self.inner.loaded.digest.as_str()
    }

    /// The name that the file gives to the image, or the first of them; the one that was asked for, if one was.
    pub fn reference(&self) -> Option<&str> {
        self.inner.reference.as_deref()
    }

    /// What the image is for: `linux/amd64`.
    pub fn platform(&self) -> &str {
        &self.inner.platform
    }

    /// How the image is meant to be run.
    pub fn config(&self) -> &ImageConfig {
        &self.inner.loaded.config
    }

    /// The layers, the lowest first.
    pub fn layers(&self) -> &[LayerInfo] {
        &self.inner.loaded.layers
    }

    /// The bytes of all layers, as they are stored.
    pub fn size(&self) -> u64 {
        self.layers().iter().map(|layer| layer.size).fold(0, u64::saturating_add)
    }

    /// Whom its unpacked files belong to; nothing before it is unpacked by a [`Store`].
    pub fn ownership(&self) -> Option<Ownership> {
        self.stored.as_ref().map(|stored| stored.ownership)
    }

    /// How many device files of the image, and how many extended attributes, its unpacked layers lack: no device works in a
    /// sandbox, and attributes that could give rights or steer the kernel are left out.
    pub fn left_out(&self) -> (u64, u64) {
        self.stored.as_ref().map_or((0, 0), |stored| (stored.devices, stored.xattrs))
    }

    pub(crate) fn stored(&self) -> Option<&Arc<Stored>> {
        self.stored.as_ref()
    }

    /// The configuration as it is in the file.
    fn document(&self) -> &[u8] {
        &self.inner.loaded.document
    }

    fn with_layers(&self, stored: Stored) -> Image {
        Image { inner: self.inner.clone(), stored: Some(Arc::new(stored)) }
    }

    /// Opens a layer, by its place from the lowest on.
    pub(crate) fn open_layer(&self, index: usize) -> Result<LayerBlob> {
        let missing = || invalid(format!("layer {index}"), "there is no such layer").with_path(&self.inner.path);
        let info = self.layers().get(index).ok_or_else(missing)?;
        let section = self.inner.source.file(&info.name).map_err(|error| error.with_path(&self.inner.path))?;
        let content = Verified::new(section.ok_or_else(missing)?, info.digest.clone(), Some(info.size));
        Ok(LayerBlob { info: info.clone(), content })
    }
}

impl PartialEq for Image {
    /// By the digest of the manifest, which says all of it.
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Image {}

impl Hash for Image {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest().hash(state);
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("path", &self.inner.path)
            .field("digest", &self.digest())
            .field("reference", &self.reference())
            .field("platform", &self.platform())
            .finish_non_exhaustive()
    }
}

/// A layer of an image: the changes to what is below it, as a tar archive that may be compressed.
#[derive(Clone, Debug)]
pub struct LayerInfo {
    /// The file in the source.
    name: String,
    digest: Digest,
    diff_id: Digest,
    size: u64,
    media_type: String,
}

impl LayerInfo {
    /// The digest of the layer as it is stored.
    pub fn digest(&self) -> &str {
        self.digest.as_str()
    }

    /// The digest of the layer's content, uncompressed: the same content has the same, in whichever image it is.
    pub fn diff_id(&self) -> &str {
        self.diff_id.as_str()
    }

    /// The bytes of the layer as it is stored.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the image says that the layer is; empty in a docker archive, which does not.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }
}

/// A layer as it is stored. To read it to its end fails unless it has the digest and the size that the image tells.
#[derive(Debug)]
pub(crate) struct LayerBlob {
    info: LayerInfo,
    content: Verified<Section>,
}

impl LayerBlob {
    #[cfg(test)]
    pub(crate) fn info(&self) -> &LayerInfo {
        &self.info
    }

    /// Leaves the digest to a caller who verifies the uncompressed content: of a layer without compression that is the
    /// same digest, and nothing has to be hashed twice.
    pub(crate) fn hashed_once(mut self) -> Self {
        if self.info.digest == self.info.diff_id {
            self.content.leave_digest();
        }
        self
    }

    /// The digest that the uncompressed content must have.
    pub(crate) fn diff_id(&self) -> &Digest {
        &self.info.diff_id
    }

    /// Reads what is left, and verifies the whole.
    #[cfg(test)]
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.content.finish().map_err(|error| digest::error(format!("read {}", self.info.digest), error))
    }
}

impl Read for LayerBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer)
    }
}

/// Words of an image's, for those of ours: they may be long, and made for a terminal.
fn shown(text: impl AsRef<[u8]>) -> String {
    let bytes = text.as_ref();
    match bytes.get(..SHOWN) {
        Some(start) if bytes.len() > SHOWN => format!("{}...", Escaped(start)),
        _ => Escaped(bytes).to_string(),
    }
}

/// How many bytes of an image's words are cited.
const SHOWN: usize = 200;

/// Something about an image that is not as it has to be.
fn invalid(step: impl Into<String>, cause: impl Into<String>) -> Error {
    Error::new(Layer::Image, ErrorKind::InvalidImage, step, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A docker archive with one layer of this content, which its configuration calls by the digest of "layer".
    fn archive(layer: &[u8]) -> tempfile::NamedTempFile {
        let diff_id = Digest::of(b"layer");
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#,
            platform::Platform::machine().architecture
        );
        let list = r#"[{"Config":"config.json","Layers":["layer.tar"]}]"#;
        let mut archive = tar::Builder::new(tempfile::NamedTempFile::new().unwrap());
        for (name, content) in
            [("config.json", config.as_bytes()), ("layer.tar", layer), ("manifest.json", list.as_bytes())]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_layer_is_proven_at_its_end() {
        for (content, good) in [(&b"layer"[..], true), (b"other", false)] {
            let file = archive(content);
            let image = Image::open(file.path()).unwrap();
            let mut layer = image.open_layer(0).unwrap();
            assert_eq!((layer.info().size(), layer.diff_id()), (5, &Digest::of(b"layer")));
            let mut start = [0; 2];
            layer.read_exact(&mut start).unwrap();
            assert_eq!(start, content[..2]);
            assert_eq!(layer.finish().is_ok(), good);
            let read = image.open_layer(0).unwrap().read_to_end(&mut Vec::new());
            assert_eq!(read.is_ok(), good);
            assert_eq!(image.open_layer(1).unwrap_err().kind(), ErrorKind::InvalidImage);
        }
    }

    #[test]
    fn a_file_that_ends_early_has_no_good_end() {
        let file = archive(b"layer");
        let image = Image::open(file.path()).unwrap();
        file.as_file().set_len(600).unwrap();
        image.open_layer(0).unwrap().finish().unwrap_err();
    }
}
