//! Builds the smallest root that runs one program, prints it with its size, and runs the program in it.
//!
//! ```text
//! cargo run --features image --example distroless -- PROGRAM [--with PATH]... [-- ARGS...]
//! cargo run --features image --example distroless -- /usr/bin/python3 --with /usr/lib/python3.11 -- -c 'print(6 * 7)'
//! ```
//!
//! Certificates and time zones are added; the network is a loopback interface of its own. The exit code is the program's.

use std::error::Error;

use belljar::{Distroless, DistrolessFrom, Network, Rootfs, Sandbox};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let end = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let (options, rest) = args.split_at(end);
    let (program, options) = options.split_first().ok_or("usage: distroless PROGRAM [--with PATH]... [-- ARGS...]")?;

    let mut root = Rootfs::distroless(program).with_ca_certificates().with_tzdata();
    for option in options.chunks(2) {
        root = match option {
            [with, path] if with == "--with" => root.with(path),
            _ => return Err(format!("{option:?} is neither --with PATH nor --").into()),
        };
    }
    print(&root)?;

    let path = std::path::absolute(program)?;
    let sandbox = Sandbox::new().rootfs(root).network(Network::Loopback);
    let outcome = sandbox.command(path).args(rest.iter().skip(1)).status()?;
    std::process::exit(outcome.code().unwrap_or(1))
}

fn print(root: &Distroless) -> Result<(), Box<dyn Error>> {
    let files = root.files()?;
    for file in &files {
        // {:?} escapes what a name could do to a terminal.
        match file.from() {
            DistrolessFrom::Link(target) => println!("{:>12}  {:?} -> {target:?}", "", file.path()),
            DistrolessFrom::Dir(_) => println!("{:>12}  {:?} and all below", file.size(), file.path()),
            _ => println!("{:>12}  {:?}", file.size(), file.path()),
        }
    }
    let size: u64 = files.iter().map(|file| file.size()).sum();
    println!("{:>12}  in {} entries", size, files.len());
    Ok(())
}
