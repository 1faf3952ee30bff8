//! Runs a command in the userland of another distribution, which a directory holds.
//!
//! ```text
//! mmdebstrap --variant=minbase trixie /srv/trixie
//! cargo run --example in_directory -- /srv/trixie ~/project make
//! ```
//!
//! The userland is read-only; the second directory is found at /work, writable, and is where the command starts.
//! There is no network. The exit code is the command's.

use std::error::Error;
use std::path::Path;

use belljar::{Rootfs, Sandbox};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, work, program, args @ ..] = args.as_slice() else {
        return Err("usage: in_directory ROOT WORK COMMAND ARGS...".into());
    };
    let outcome = Sandbox::new()
        .rootfs(Rootfs::dir(Path::new(root).canonicalize()?))
        .bind(Path::new(work).canonicalize()?, "/work")
        .command(program)
        .args(args)
        .current_dir("/work")
        .status()?;
    std::process::exit(outcome.code().unwrap_or(1))
}
