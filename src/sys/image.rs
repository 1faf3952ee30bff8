//! The images of init and of the agent: ELF files around the code in `arch`.

use core::ffi::{CStr, c_int};
use std::os::fd::AsFd;

use super::{Errno, Fd, Result, arch, call, ptr, raw, write_all};

/// Where the code is mapped. Any address above `vm.mmap_min_addr` would do.
const BASE: u64 = 0x40_0000;
const EHDR: u64 = 64;
const PHDR: u64 = 56;

/// The agent's memory, from its start at a fixed address: who lists its calls names places in there.
///
/// The file is mapped there once more, writable, for the `struct msghdr` in it; behind that the memory is zero.
#[derive(Debug)]
pub(crate) struct AgentData;

impl AgentData {
    /// The address. AArch64 loads it with one instruction: the low half is zero.
    pub(crate) const AT: u64 = 0x1000_0000;
    /// The `struct msghdr` of recvmsg(2), and behind it the `struct iovec`: right behind the headers of the file.
    pub(crate) const HEADER: u64 = EHDR + 3 * PHDR;
    /// Where descriptors arrive.
    const CONTROL: u64 = 2048;
    /// For `SCM_MAX_FD` (253) of them.
    pub(crate) const CONTROL_LENGTH: u64 = 16 + 253 * 4 + 4;
    /// Where the calls stopped, and with what result.
    pub(crate) const ANSWER: u64 = 2032;
    /// Where a message arrives: the descriptor for what follows, then the calls.
    pub(crate) const MESSAGE: u64 = 4096;
    /// The longest message.
    pub(crate) const MESSAGE_MAX: usize = 160 << 10;

    fn header() -> Vec<u8> {
        let iovec = Self::AT + Self::HEADER + 56;
        let msghdr = [0, 0, iovec, 1, Self::AT + Self::CONTROL, 0, 0];
        let words = msghdr.into_iter().chain([Self::AT + Self::MESSAGE, Self::MESSAGE_MAX as u64]);
        words.flat_map(u64::to_le_bytes).collect()
    }
}

/// The file that init is executed from. Allocates: for the parent.
pub(crate) fn init_image() -> Vec<u8> {
    elf(&[], arch::init_code(), 0)
}

/// The file that the agent is executed from.
pub(crate) fn agent_image() -> Vec<u8> {
    elf(&AgentData::header(), arch::agent_code(), AgentData::MESSAGE + AgentData::MESSAGE_MAX as u64)
}

/// A sealed memfd with this content and mode.
///
/// A process that executes what it can't read is not dumpable from its first instruction on.
pub(crate) fn executable(image: &[u8], mode: u32) -> Result<Fd> {
    const F_ADD_SEALS: c_int = 1033;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    let file = memfd(c"belljar")?;
    write_all(file.as_fd(), image)?;
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fchmod, [raw(file.as_fd()), mode as usize]) }?;
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_fcntl, [raw(file.as_fd()), F_ADD_SEALS as usize, seals as usize]) }?;
    Ok(file)
}

/// memfd_create(2), executable. Kernels before 6.3 do not know `MFD_EXEC`, and need it not.
fn memfd(name: &CStr) -> Result<Fd> {
    let flags = (libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) as usize;
    // SAFETY: `name` ends in a zero byte and is only read.
    match unsafe { call(libc::SYS_memfd_create, [ptr(name), flags | libc::MFD_EXEC as usize]) } {
        // SAFETY: As above.
        Err(Errno(libc::EINVAL)) => unsafe { call(libc::SYS_memfd_create, [ptr(name), flags]) },
        result => result,
    }
    .map(Fd::new)
}

/// See elf(5): a 64-bit executable whose one segment, read and execute, holds the whole file: headers, data, code. With
/// `memory`, the file is mapped a second time, to read and write, at the start of that much memory.
fn elf(data: &[u8], code: &[u8], memory: u64) -> Vec<u8> {
    const PT_LOAD: u32 = 1;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    let segments = if memory == 0 { 2 } else { 3 };
    let start = EHDR + segments * PHDR + data.len() as u64;
    let size = start + code.len() as u64;
    let mut file = Vec::with_capacity(size as usize);
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&2_u16.to_le_bytes()); // e_type: ET_EXEC
    file.extend_from_slice(&arch::ELF_MACHINE.to_le_bytes());
    file.extend_from_slice(&1_u32.to_le_bytes()); // e_version
    for word in [BASE + start, EHDR, 0] {
        file.extend_from_slice(&word.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    file.extend_from_slice(&0_u32.to_le_bytes()); // e_flags
    for half in [EHDR as u16, PHDR as u16, segments as u16, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes()); // e_ehsize, e_phentsize, e_phnum, no sections
    }
    let stack = (PT_GNU_STACK, 6_u32, 0, [0, 0], 16);
    let code_segment = (PT_LOAD, 5, BASE, [size, size], 0x1000);
    let data_segment = (PT_LOAD, 6, AgentData::AT, [size, memory], 0x1000);
    for (kind, flags, address, lengths, align) in
        [code_segment, stack, data_segment].into_iter().take(segments as usize)
    {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&flags.to_le_bytes());
        for word in [0_u64, address, address, lengths[0], lengths[1], align] {
            file.extend_from_slice(&word.to_le_bytes()); // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
        }
    }
    file.extend_from_slice(data);
    file.extend_from_slice(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    fn image() -> OwnedFd {
        executable(&init_image(), 0o111).unwrap().into()
    }

    #[test]
    fn init_exits_at_the_end_of_its_lifeline() {
        let image = image();
        let mut init = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()));
        let mut init = init.stdin(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(init.try_wait().unwrap().is_none(), "init waits");
        drop(init.stdin.take());
        assert!(init.wait().unwrap().success());
    }

    #[test]
    fn the_image_is_small_and_sealed() {
        let mut file = File::from(image());
        assert!(file.write_all(b"x").is_err());
        let metadata = file.metadata().unwrap();
        assert!(metadata.len() < 1024);
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777, 0o111);
    }
}
