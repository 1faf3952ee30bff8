//! What differs between processors: the system call instruction, starting a child on a stack of its own, and
//! the code of the two images. One small file each, with the same items.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod imp;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod imp;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("belljar supports x86_64 and aarch64: src/sys/arch has a file for each");

use super::image::AgentData;

pub(crate) use imp::{AUDIT_ARCH, ELF_MACHINE, clone, syscall, trap};

/// The code of init.
pub(crate) fn init_code() -> &'static [u8] {
    let (start, end) = imp::init_code();
    // SAFETY: Both point into this crate's code, in this order; it is readable for as long as it can run.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// The code of the agent.
pub(crate) fn agent_code() -> &'static [u8] {
    let (start, end) = imp::agent_code();
    // SAFETY: As for init.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}
