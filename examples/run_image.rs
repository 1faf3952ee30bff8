//! Runs a command in a container image, without an engine and without root.
//!
//! ```text
//! skopeo copy docker://debian:stable docker-archive:debian.tar:debian:stable
//! cargo run --features image --example run_image -- debian.tar cat /etc/os-release
//! ```
//!
//! The image is a tar archive or a directory, as `docker save`, `buildah`, `skopeo` and `umoci` write them. Its layers are
//! unpacked once, into the caller's own store. Without a command, that of the image is run. What the program writes is
//! gone at the end; there is no network. The exit code is the program's, and 125 where it could not
//! be started.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::Path;

use belljar::{Error, Image, Progress, Rootfs, Sandbox, Store};

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let code = match args.as_slice() {
        [image, command @ ..] => run(image.as_ref(), command).unwrap_or_else(|error| {
            eprintln!("run_image: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("{hint}");
            }
            125
        }),
        [] => {
            eprintln!("usage: run_image IMAGE [COMMAND ARGS...]");
            2
        }
    };
    std::process::exit(code)
}

fn run(image: &Path, command: &[OsString]) -> Result<i32, Error> {
    let image = Store::open_default()?.unpack_with(&Image::open(image)?, show)?;
    let sandbox = Sandbox::from_image(&image).rootfs(Rootfs::image(&image).ephemeral());
    let outcome = match command {
        [] => sandbox.default_command()?.status()?,
        [program, args @ ..] => sandbox.command(program).args(args).status()?,
    };
    Ok(outcome.code().or(outcome.signal().map(|signal| 128 + signal)).unwrap_or(1))
}

/// Draws a bar, if there is a terminal to draw it on.
fn show(progress: Progress) {
    let mut terminal = std::io::stderr().lock();
    if !terminal.is_terminal() {
        return;
    }
    let Progress { layer, layers, bytes, total, .. } = progress;
    let done = (bytes * 40).checked_div(total).unwrap_or(40) as usize;
    let _ = write!(terminal, "\rlayer {layer}/{layers} [{:<40}] {} MiB", "=".repeat(done.min(40)), bytes >> 20);
    if bytes == total {
        let _ = write!(terminal, "\r\x1b[K");
    }
}
