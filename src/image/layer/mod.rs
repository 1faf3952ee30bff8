//! Image layers: from a tar stream, maybe compressed, to checked entries.
//!
//! Nothing here touches a file system. A stream comes in from anybody, and what comes out is bounded by
//! [`UnpackLimits`], has paths that lead nowhere but down, and is what GNU tar and Python read in the same bytes.
//! Where archive readers differ in what a stream means, it is refused.

mod compression;
mod entry;
mod fault;
mod header;
mod limits;
mod path;
mod pax;
mod reader;
mod stream;
mod xattr;

pub(crate) use entry::{Entry, Kind, Time};
pub use limits::UnpackLimits;
pub(crate) use path::EntryPath;
pub(crate) use reader::LayerReader;

#[cfg(test)]
mod tests {
    mod bounds;
    mod build;
    mod compressed;
    mod differential;
    mod formats;
    mod mutate;
    mod names;
}
