//! Makes an image of what a program has changed: the layers of its base, and one more.

mod documents;
mod layer;
mod place;

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::{Image, Stored, digest, invalid};
use crate::changes::Changes;
use crate::error::{Error, Layer, Result};
use crate::plan::Escaped;
use documents::{Blob, Documents};
use place::Place;

/// An image that is to be written: [`Changes::commit`].
///
/// It has the layers of its base as they are stored, verified while they are copied, and on them the changes as one more;
/// the configuration of the base, with a line of history; and a name. Tools that read OCI layouts or docker archives
/// take it: `skopeo`, `umoci`, `docker load`, and [`Image::open`].
///
/// The new layer has files, directories, symbolic and hard links and FIFOs, with modes, times, attributes in `user.*`,
/// and owners as they are inside; of what was there before, and has not changed hands, the owner that the base tells. Sockets
/// and devices are left out. What is deleted is marked as the specification of the format has it. The same changes make the
/// same layer, byte by byte.
///
/// It is made in a directory `.belljar-*` beside its place; one of a process that was killed meanwhile stays.
///
/// What is not protected: the content is the program's, set-id bits included. They have no effect in a sandbox of this
/// crate, and in other engines they have.
#[derive(Clone, Debug)]
#[must_use = "nothing is written before write_layout or write_archive"]
pub struct Commit<'a> {
    changes: &'a Changes,
    base: &'a Image,
    reference: String,
    created: SystemTime,
    gzip: bool,
}

impl Changes {
    /// Begins an image named `reference`, like `example/app:2`: these changes on top of `base`, which has to be the image that
    /// the root was made of.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use belljar::{Image, Rootfs, Sandbox, Store};
    ///
    /// let base = Store::open_default()?.unpack(&Image::open("trixie.tar")?)?;
    /// let sandbox = Sandbox::from_image(&base).rootfs(Rootfs::image(&base).ephemeral()).user(0, 0);
    /// let outcome = sandbox.command("dpkg").args(["-i", "/debs/hello.deb"]).status()?;
    /// outcome.changes()?.commit(&base, "example/hello:1").gzip().write_archive("hello.tar")?;
    /// # Ok::<(), belljar::Error>(())
    /// ```
    pub fn commit<'a>(&'a self, base: &'a Image, reference: impl Into<String>) -> Commit<'a> {
        Commit { changes: self, base, reference: reference.into(), created: SystemTime::now(), gzip: false }
    }

    /// Writes the changes as a layer of an image: a tar archive, uncompressed. For a root that is made of plain
    /// directories; [`commit`](Changes::commit) makes a whole image.
    ///
    /// # Errors
    ///
    /// As for [`Commit::write_layout`]. Then part of the layer may have been written.
    pub fn write_layer(&self, mut writer: impl Write) -> Result<()> {
        layer::write(self, &mut writer)
    }
}

impl Commit<'_> {
    /// Compresses the new layer with gzip. The default is a plain one, as in `docker save`.
    pub fn gzip(mut self) -> Self {
        self.gzip = true;
        self
    }

    /// Sets when the image was made, as it tells. The default is now.
    pub fn created(mut self, time: SystemTime) -> Self {
        self.created = time;
        self
    }

    /// Writes the image as an OCI layout in a new directory, and opens it.
    ///
    /// # Errors
    ///
    /// - [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy): the reference is none; or the changes were made to the layers of
    ///   another image than the base.
    /// - [`InvalidImage`](crate::ErrorKind::InvalidImage): a layer of the base has not the digest that it is named by;
    ///   or the program has made a name that can't be told in a layer: one that starts with `.wh.`, or an attribute with
    ///   `=` in its name.
    /// - [`Os`](crate::ErrorKind::Os): `dir` exists or can't be written; a bound of
    ///   [`ChangeLimits`](crate::ChangeLimits) is met; the caller may not read a file, by its owner or its mode; another sandbox
    ///   runs on the directory of the changes.
    ///
    /// Nothing is left then.
    pub fn write_layout(&self, dir: impl AsRef<Path>) -> Result<Image> {
        self.write(dir.as_ref(), |place| {
            self.layout(place.path())?;
            Ok(place.path().to_owned())
        })
    }

    /// Writes the image as a tar archive to a new file, and opens it: an OCI layout and a docker archive in one, as
    /// `docker save` writes it from 25 on.
    ///
    /// # Errors
    ///
    /// As for [`write_layout`](Commit::write_layout).
    pub fn write_archive(&self, file: impl AsRef<Path>) -> Result<Image> {
        self.write(file.as_ref(), |place| {
            let (layout, archive) = (place.path().join("layout"), place.path().join("archive"));
            std::fs::create_dir(&layout).map_err(|error| failed("make the image", &error))?;
            let documents = self.layout(&layout)?;
            let wrong = |error: io::Error| failed("write the archive", &error);
            let mut output = BufWriter::new(File::create_new(&archive).map_err(wrong)?);
            documents.archive(&layout, &mut output)?;
            output.into_inner().map_err(|error| wrong(error.into_error()))?;
            Ok(archive)
        })
    }

    /// Makes something beside its place, and puts it there when it is whole.
    fn write(&self, to: &Path, make: impl FnOnce(&Place) -> Result<std::path::PathBuf>) -> Result<Image> {
        let made = || {
            check_reference(&self.reference)?;
            self.check_base()?;
            let place = Place::beside(to)?;
            let made = make(&place)?;
            place.put(&made, to)?;
            Image::options().reference(&self.reference).platform(self.base.platform()).open(to)
        };
        made().map_err(|error| error.within(&format!("commit {}", Escaped(self.reference.as_bytes()))))
    }

    /// The changes say nothing of other layers than those that they were made to.
    fn check_base(&self) -> Result<()> {
        let own = self.changes.written.keeps().and_then(|keeps| keeps.downcast_ref::<Stored>());
        let base = || self.base.layers().iter().map(|info| &info.diff_id);
        match own {
            Some(own) if !own.diff_ids.iter().eq(base()) => {
                Err(Error::invalid(Layer::Image, "base", "the changes were made to another image"))
            }
            _ => Ok(()),
        }
    }

    /// Fills a directory with the image.
    fn layout(&self, dir: &Path) -> Result<Documents> {
        let blobs = dir.join("blobs");
        for dir in [&blobs, &blobs.join("sha256")] {
            std::fs::create_dir(dir).map_err(|error| failed("make the image", &error))?;
        }
        let mut documents = Documents::new(self.base, &self.reference, self.created);
        for (index, info) in self.base.layers().iter().enumerate() {
            documents.layers.push(self.base_layer(index, &info.digest, &blobs)?);
        }
        let (blob, diff_id) = self.own_layer(&blobs)?;
        documents.layers.push(blob);
        documents.write(dir, &diff_id)?;
        Ok(documents)
    }

    /// Copies a layer of the base, as it is stored: to its end, which proves its digest.
    fn base_layer(&self, index: usize, digest: &Digest, blobs: &Path) -> Result<Blob> {
        let mut blob = self.base.open_layer(index)?;
        let (algorithm, digits) = digest.parts();
        let dir = blobs.join(algorithm);
        let wrong = |error: io::Error| failed("copy a layer", &error);
        // One that is there twice is stored once.
        let mut file = match File::create_new(dir.join(digits)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                File::create(dir.join(digits)).map_err(wrong)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir(&dir).map_err(wrong)?;
                File::create_new(dir.join(digits)).map_err(wrong)?
            }
            Err(error) => return Err(wrong(error)),
        };
        let mut start = Vec::new();
        let step = || format!("copy {digest}");
        blob.by_ref().take(4).read_to_end(&mut start).map_err(|error| digest::error(step(), error))?;
        file.write_all(&start).map_err(wrong)?;
        let size = start.len() as u64 + io::copy(&mut blob, &mut file).map_err(|error| digest::error(step(), error))?;
        Ok(Blob { media_type: documents::layer_type(&start), digest: digest.clone(), size })
    }

    /// Writes the new layer, and returns it with the digest of its content.
    fn own_layer(&self, blobs: &Path) -> Result<(Blob, Digest)> {
        let wrong = |error: io::Error| failed("write the layer", &error);
        let path = blobs.join("new");
        let blob = Hashed::new(BufWriter::new(File::create_new(&path).map_err(wrong)?));
        let (blob, diff_id, media_type) = match self.gzip {
            false => {
                let mut blob = blob;
                layer::write(self.changes, &mut blob)?;
                let diff_id = blob.digest();
                (blob, diff_id, documents::layer_type(b""))
            }
            true => {
                let mut content = Hashed::new(GzEncoder::new(blob, flate2::Compression::default()));
                layer::write(self.changes, &mut content)?;
                let diff_id = content.digest();
                (content.inner.finish().map_err(wrong)?, diff_id, documents::layer_type(GZIP))
            }
        };
        let (digest, size) = (blob.digest(), blob.size);
        blob.inner.into_inner().map_err(|error| wrong(error.into_error()))?;
        std::fs::rename(&path, blobs.join("sha256").join(digest.parts().1)).map_err(wrong)?;
        Ok((Blob { media_type, digest, size }, diff_id))
    }
}

/// What gzip starts with.
const GZIP: &[u8] = b"\x1f\x8b";

/// Takes the digest and the size of what is written.
struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    fn digest(&self) -> Digest {
        Digest::sha256(&self.hasher.clone().finalize())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hasher.update(data.get(..written).unwrap_or_default());
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A name that every tool takes: a path of lower case names, and maybe a tag.
fn check_reference(reference: &str) -> Result<()> {
    let (_, last) = reference.rsplit_once('/').unwrap_or(("", reference));
    let tag = last.split_once(':').map(|(_, tag)| tag);
    let name = tag.map_or(reference, |tag| reference.get(..reference.len() - tag.len() - 1).unwrap_or_default());
    let is_good = |text: &str, also: fn(u8) -> bool| {
        let of_name = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
        text.bytes().all(|byte| of_name(byte) || matches!(byte, b'.' | b'_' | b'-') || also(byte))
            && text.bytes().next().is_some_and(|byte| of_name(byte) || also(byte))
            && text.bytes().last().is_some_and(|byte| of_name(byte) || also(byte))
    };
    let host_port = |part: &str| part.split_once(':').is_none_or(|(_, port)| is_good(port, |_| false));
    let mut parts = name.split('/');
    let good = parts.all(|part| is_good(part, |byte| byte == b':') && host_port(part) && !part.starts_with(':'))
        && tag.is_none_or(|tag| tag.len() <= 128 && is_good(tag, |byte| byte.is_ascii_uppercase()))
        && name.len() <= 255;
    match good {
        true => Ok(()),
        false => Err(Error::invalid(Layer::Image, "reference", "it is no name of an image, like example/app:2")),
    }
}

fn failed(step: &str, error: &io::Error) -> Error {
    Error::os(Layer::Image, step, error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::check_reference;

    #[test]
    fn a_reference_is_a_name_and_maybe_a_tag() {
        for good in ["app", "app:1", "example/app:V1.2_x", "localhost:5000/a/b:2", "a.b/c-d__e"] {
            check_reference(good).unwrap();
        }
        for bad in
            ["", ":", "app:", ":1", "App", "a/", "/a", "a//b", "a b", "a:b:c", "a\n", "a@b", "-a", "a:b/c:d e", "é"]
        {
            check_reference(bad).unwrap_err();
        }
    }
}
