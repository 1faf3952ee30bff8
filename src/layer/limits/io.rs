//! Limits on the use of block devices.

use std::path::{Path, PathBuf};

/// How much of one block device a sandbox may use in a second. What is not set is not limited.
///
/// # Examples
///
/// ```
/// use belljar::{IoMax, Limits};
///
/// let limits = Limits::new().io_max(IoMax::new("/dev/vda").write_bytes(10 << 20).write_operations(500));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoMax {
    pub(crate) device: PathBuf,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) write_bytes: Option<u64>,
    pub(crate) read_operations: Option<u64>,
    pub(crate) write_operations: Option<u64>,
}

impl IoMax {
    /// No limit yet, on this block device: a whole one, not a partition.
    pub fn new(device: impl AsRef<Path>) -> Self {
        let device = device.as_ref().into();
        Self { device, read_bytes: None, write_bytes: None, read_operations: None, write_operations: None }
    }

    /// Sets how many bytes may be read in a second: at least 1.
    pub fn read_bytes(mut self, bytes: u64) -> Self {
        self.read_bytes = Some(bytes);
        self
    }

    /// Sets how many bytes may be written in a second: at least 1.
    pub fn write_bytes(mut self, bytes: u64) -> Self {
        self.write_bytes = Some(bytes);
        self
    }

    /// Sets how many times may be read in a second: at least 1.
    pub fn read_operations(mut self, count: u64) -> Self {
        self.read_operations = Some(count);
        self
    }

    /// Sets how many times may be written in a second: at least 1.
    pub fn write_operations(mut self, count: u64) -> Self {
        self.write_operations = Some(count);
        self
    }
}
