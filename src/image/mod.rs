//! Container images: snapshots of a userland, as files that engines and their tools write.

pub(crate) mod digest;
