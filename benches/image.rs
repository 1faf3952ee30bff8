//! What images cost: to start from one, to share one, to unpack one, and to make the smallest root of one program.
//!
//! `cargo bench --features image --bench image` runs every section, and `.. -- start unpack` two of them. How to read
//! the tables is in README.md beside this file.

#[allow(dead_code, unused_imports, reason = "some of it is for the other bench")]
mod common;
mod image {
    mod cache;
    pub(crate) mod distroless;
    pub(crate) mod made;
    pub(crate) mod share;
    pub(crate) mod start;
    pub(crate) mod unpack;
}

use std::process::ExitCode;

use common::run::{Section, run};

/// The sections, in the order in which they run.
const SECTIONS: [(&str, Section); 4] = [
    ("start", image::start::start),
    ("share", image::share::share),
    ("unpack", image::unpack::unpack),
    ("distroless", image::distroless::distroless),
];

fn main() -> ExitCode {
    match image::unpack::as_child() {
        Some(code) => code,
        None => run("image", &SECTIONS),
    }
}
