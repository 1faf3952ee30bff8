//! The init image: an ELF file of one segment around the code in `arch`.

use core::ffi::{CStr, c_int};
use std::os::fd::AsFd;

use super::{Errno, Fd, Result, arch, call, ptr, raw, write_all};

/// Where the one segment is mapped. Any address above `vm.mmap_min_addr` would do.
const BASE: u64 = 0x40_0000;
const EHDR: u64 = 64;
const PHDR: u64 = 56;

/// The file that init is executed from. Allocates: for the parent.
pub(crate) fn init_image() -> Vec<u8> {
    elf(arch::init_code())
}

/// A sealed memfd with this content and mode.
///
/// A process that executes what it can't read is not dumpable from its first instruction on.
pub(crate) fn executable(image: &[u8], mode: u32) -> Result<Fd> {
    const F_ADD_SEALS: c_int = 1033;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    let file = memfd(c"init")?;
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

/// See elf(5): a 64-bit executable with one segment, read and execute, that holds the whole file.
fn elf(code: &[u8]) -> Vec<u8> {
    const PT_LOAD: u32 = 1;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    let start = EHDR + 2 * PHDR;
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
    for half in [EHDR as u16, PHDR as u16, 2, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes()); // e_ehsize, e_phentsize, e_phnum, no sections
    }
    for (kind, flags, address, length, align) in [(PT_LOAD, 5_u32, BASE, size, 0x1000), (PT_GNU_STACK, 6, 0, 0, 16)] {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&flags.to_le_bytes());
        for word in [0_u64, address, address, length, length, align] {
            file.extend_from_slice(&word.to_le_bytes()); // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
        }
    }
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
