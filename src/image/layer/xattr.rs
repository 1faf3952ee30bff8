//! Extended attributes: which of them an image may bring along.

use std::ffi::CString;

use super::fault::{Checked, Fault, refuse};
use crate::plan::Escaped;

/// `XATTR_NAME_MAX` and `XATTR_SIZE_MAX` of Linux.
const NAME: usize = 255;
const VALUE: usize = 65_536;

/// The attributes of one entry.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    /// Those that are set.
    pub(super) kept: Vec<(CString, Vec<u8>)>,
    /// The names of those that say something about the host that packed the file, and nothing on another.
    pub(super) dropped: Vec<CString>,
    bytes: usize,
}

impl Xattrs {
    pub(super) fn add(&mut self, name: &[u8], value: &[u8], limit: usize) -> Checked<()> {
        let told = Escaped(&name[..name.len().min(NAME)]);
        self.bytes += name.len() + value.len();
        if self.bytes > limit {
            refuse!("its extended attributes have more than {limit} bytes, which is the limit");
        }
        if name.is_empty() || name.len() > NAME || value.len() > VALUE {
            refuse!(
                "its extended attribute \"{told}\" is none that Linux has: a name of 1 to {NAME} bytes, a value of {VALUE}"
            );
        }
        // GNU tar encodes these two, Go and Python take them as they are.
        if name.windows(3).any(|part| matches!(part, b"%3D" | b"%25")) {
            refuse!("its extended attribute \"{told}\" has a name that readers differ in");
        }
        if [&b"user.overlay."[..], b"trusted.overlay."].iter().any(|prefix| name.starts_with(prefix)) {
            let fault = Fault::new(format!("its extended attribute \"{told}\" is an order to overlayfs"));
            return Err(fault.with_hint("It was packed from a directory of overlayfs: pack what is mounted instead."));
        }
        let Ok(owned) = CString::new(name) else { refuse!("its extended attribute \"{told}\" has a zero byte") };
        if self.kept.iter().map(|(name, _)| name).chain(&self.dropped).any(|other| *other == owned) {
            refuse!("its extended attribute \"{told}\" is there twice");
        }
        match name.starts_with(b"user.") || name == b"security.capability" {
            true => self.kept.push((owned, value.to_owned())),
            false => self.dropped.push(owned),
        }
        Ok(())
    }
}
