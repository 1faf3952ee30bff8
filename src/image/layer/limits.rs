//! How much an image may ask for.

use std::time::Duration;

use crate::error::{Error, Layer, Result};

/// Bounds of what is unpacked from one layer of an image.
///
/// A layer that goes beyond one of them is refused, with [`ErrorKind::InvalidImage`](crate::ErrorKind::InvalidImage)
/// and the name of the entry. The defaults hold the layers of ordinary images, those with a machine learning
/// framework in them included, and keep a hostile one from filling a disk or a day. They bound one layer, not the sum
/// of many.
///
/// # Examples
///
/// ```
/// use belljar::UnpackLimits;
///
/// let limits = UnpackLimits::new().bytes(512 << 20).entries(50_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    pub(in crate::image) bytes: u64,
    pub(super) entries: u64,
    pub(super) depth: usize,
    pub(super) path_bytes: usize,
    pub(super) file_bytes: u64,
    pub(super) ratio: u64,
    pub(super) xattr_bytes: usize,
    pub(super) zstd_window: u64,
    pub(in crate::image) time: Duration,
}

/// `PATH_MAX` of Linux, without the zero byte at the end.
const PATH_BYTES: usize = 4095;

/// The decoder takes no more for all but the first frame of a stream.
const ZSTD_WINDOW: u64 = 100 << 20;

impl UnpackLimits {
    /// The default bounds, which each method names.
    pub fn new() -> Self {
        Self {
            bytes: 16 << 30,
            entries: 2_000_000,
            depth: 256,
            path_bytes: PATH_BYTES,
            file_bytes: 8 << 30,
            ratio: 500,
            xattr_bytes: 128 << 10,
            zstd_window: 8 << 20,
            time: Duration::from_secs(30 * 60),
        }
    }

    /// Sets how many bytes the layer has when it is inflated: its files, headers and padding. The default is 16 GiB. What
    /// it copies from the layers below, because it has another name for a file there, is bounded by the same number.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets how many entries it has: files, directories, links, whiteouts. The default is 2,000,000.
    pub fn entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// Sets how many components a path has, its last one included. The default is 256.
    pub fn depth(mut self, components: usize) -> Self {
        self.depth = components;
        self
    }

    /// Sets how many bytes a path, or the target of a link, has: at most 4,095, which is the default and what Linux
    /// takes. A component has at most 255 in any case.
    pub fn path_bytes(mut self, bytes: usize) -> Self {
        self.path_bytes = bytes;
        self
    }

    /// Sets how many bytes one file has. The default is 8 GiB.
    pub fn file_bytes(mut self, bytes: u64) -> Self {
        self.file_bytes = bytes;
        self
    }

    /// Sets how many bytes come of each compressed byte, on the average from the start of the layer to any place
    /// after its first 16 MiB. The default is 500: gzip makes 1,030 of nothing but zeros, and 2 to 5 of most layers.
    pub fn ratio(mut self, ratio: u64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets how many bytes the extended attributes of one entry have, names and values together. The default is
    /// 128 KiB. A name has at most 255 bytes and a value 65,536 in any case, as in xattr(7).
    pub fn xattr_bytes(mut self, bytes: usize) -> Self {
        self.xattr_bytes = bytes;
        self
    }

    /// Sets how many bytes the window of a layer in zstd has: at most 100 MiB. The default is 8 MiB.
    ///
    /// Up to four times as much memory is taken for it. RFC 8878 asks of every reader for 8 MiB, which `zstd -19`
    /// needs; its levels 20 and 21 need 32 MiB and 64 MiB, and 22 needs more than can be set here.
    pub fn zstd_window(mut self, bytes: u64) -> Self {
        self.zstd_window = bytes;
        self
    }

    /// Sets how long reading and unpacking the layer takes. The default is 30 minutes.
    ///
    /// It is looked at whenever more of the layer is read. A read that blocks is not interrupted.
    pub fn time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let invalid = |cause: &str| Err(Error::invalid(Layer::Image, "limits", cause));
        if self.path_bytes > PATH_BYTES {
            return invalid("a path has at most 4095 bytes");
        }
        if self.zstd_window > ZSTD_WINDOW {
            return invalid("the window of zstd is at most 100 MiB");
        }
        Ok(())
    }
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self::new()
    }
}
