//! The steps of [`Entry`](crate::Entry), which are taken in the caller's order.

use std::ffi::CString;
use std::fmt;

use super::operand::{Content, HostPath, Inside, attr};

/// What one of them asks the kernel for.
#[derive(Clone, Debug)]
pub(crate) enum EntryStep {
    /// From here on missing places are made in directories of the host too.
    MakePlaces,
    /// Makes a directory, unless it is there.
    Dir { at: Inside, mode: u32 },
    /// Makes a file where it is, or fills the one that is there.
    File { at: Inside, mode: u32, data: Content },
    /// Binds a file of our own, with this name in the workspace.
    Data { at: Inside, name: CString, mode: u32, data: Content, attributes: u64 },
    /// Binds what a descriptor has shown to be there, if it still is.
    Same { source: HostPath, file: [u64; 2], at: Inside, attributes: u64 },
    /// Mounts the message queues of the IPC namespace.
    Mqueue { at: Inside },
    /// Stacks directories of the host, the first lowest, with these names in the workspace.
    Overlay { at: Inside, lowers: Vec<HostPath>, upper: EntryUpper, names: [CString; 3] },
    /// Sets the mode of what is there.
    Mode { at: Inside, mode: u32 },
}

/// What lies on top of the directories of an [`EntryStep::Overlay`].
#[derive(Clone, Debug)]
pub(crate) enum EntryUpper {
    /// Nothing: it is read-only.
    Nothing,
    /// A part of the workspace.
    Memory,
    /// Two directories of the host: for what is written, and for overlayfs itself.
    Dirs([HostPath; 2]),
}

impl EntryStep {
    pub(crate) fn at(&self) -> Option<&Inside> {
        match self {
            EntryStep::MakePlaces => None,
            EntryStep::Dir { at, .. }
            | EntryStep::File { at, .. }
            | EntryStep::Data { at, .. }
            | EntryStep::Same { at, .. }
            | EntryStep::Mqueue { at }
            | EntryStep::Overlay { at, .. }
            | EntryStep::Mode { at, .. } => Some(at),
        }
    }

    /// Where it mounts something, and whether that may be written to.
    pub(crate) fn mounts(&self) -> Option<(&Inside, bool)> {
        match self {
            EntryStep::Data { at, attributes, .. } | EntryStep::Same { at, attributes, .. } => {
                Some((at, attributes & attr::READ_ONLY == 0))
            }
            EntryStep::Mqueue { at } => Some((at, true)),
            EntryStep::Overlay { at, upper, .. } => Some((at, !matches!(upper, EntryUpper::Nothing))),
            _ => None,
        }
    }

    /// Whether it makes a file system that later steps may make files on.
    pub(crate) fn makes_file_system(&self) -> bool {
        matches!(self, EntryStep::Overlay { upper: EntryUpper::Memory, .. })
    }

    /// What it takes from the host, if that is one path.
    pub(crate) fn source(&self) -> Option<&HostPath> {
        match self {
            EntryStep::Same { source, .. } => Some(source),
            EntryStep::Overlay { lowers, .. } => match lowers.as_slice() {
                [only] => Some(only),
                _ => None,
            },
            _ => None,
        }
    }
}

impl fmt::Display for EntryStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryStep::MakePlaces => f.write_str("missing places are made in directories of the host"),
            EntryStep::Dir { at, mode } => write!(f, "dir {at} mode={mode:04o}"),
            EntryStep::File { at, mode, data } => write!(f, "file {at} ({} bytes) mode={mode:04o}", data.0.len()),
            EntryStep::Data { at, mode, data, attributes, .. } => {
                write!(f, "{} data ({} bytes) -> {at} mode={mode:04o}", bind(*attributes), data.0.len())
            }
            EntryStep::Same { source, at, attributes, .. } => {
                write!(f, "{} descriptor of {source} -> {at}", bind(*attributes))
            }
            EntryStep::Mqueue { at } => write!(f, "mqueue {at}"),
            EntryStep::Overlay { at, lowers, upper, .. } => {
                write!(f, "overlay {at}: ")?;
                for (index, lower) in lowers.iter().enumerate() {
                    write!(f, "{}{lower}", if index == 0 { "" } else { ", " })?;
                }
                match upper {
                    EntryUpper::Nothing => Ok(()),
                    EntryUpper::Memory => f.write_str(" under memory"),
                    EntryUpper::Dirs([upper, _]) => write!(f, " under {upper}"),
                }
            }
            EntryStep::Mode { at, mode } => write!(f, "chmod {mode:04o} {at}"),
        }
    }
}

fn bind(attributes: u64) -> &'static str {
    if attributes & attr::READ_ONLY == 0 { "bind" } else { "bind_ro" }
}
