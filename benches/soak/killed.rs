//! A host process that is killed at a random moment: does anything outlive it?

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use belljar::{Rootfs, Sandbox};

use super::mix::{From, Programs, Random};

/// The word that makes this program the host that is killed.
pub(crate) const ROLE: &str = "--as-a-host-that-is-killed";

/// Starts whatever there is, until it is killed.
pub(crate) fn host(dir: &Path) -> ! {
    let programs = Programs::find(dir);
    let kept = Sandbox::new().bind_ro(dir.join("pause"), "/pause");
    let kept = kept.rootfs(Rootfs::dir(dir.join("root")).overlay(dir.join("kept")));
    println!();
    let mut held = Vec::new();
    for number in 0.. {
        held.truncate(3);
        held.insert(0, programs.sandbox.command("/pause").spawn());
        // The one before may not have let go of it yet.
        drop(kept.command("/pause").spawn());
        programs.spawn(if number % 2 == 0 { From::Policy } else { From::Pool }, number);
    }
    unreachable!("numbers do not end")
}

/// Kills so many hosts. True if nothing is left of any.
pub(crate) fn kill(dir: &Path, hosts: usize) -> bool {
    // What loses its parent comes here.
    // SAFETY: No pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0);
    for name in ["root", "kept"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..hosts).all(|turn| {
        let mut host = Command::new(std::env::current_exe().unwrap());
        let mut host = host.arg(ROLE).arg(dir).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = host.stdout.take().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(if turn % 4 == 0 { 40_000 } else { 6_000 })));
        host.kill().unwrap();
        host.wait().unwrap();
        all_end()
    })
}

/// Whether all that has come here ends by itself.
fn all_end() -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        // SAFETY: A null pointer is allowed for the status.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } {
            -1 => return true,
            0 => std::thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
    false
}
