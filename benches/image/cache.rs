//! The page cache, and the disks behind it.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::common::Result;

/// No processor here has smaller pages.
const PAGE: usize = 4096;

/// Waits until everything that was written is on the disks.
pub(crate) fn sync_disks() {
    // SAFETY: No arguments, and it never fails.
    unsafe { libc::sync() }
}

/// How many bytes of a file are in the page cache: mincore(2).
pub(crate) fn resident(file: &File) -> Result<usize> {
    let length = file.metadata()?.len() as usize;
    if length == 0 {
        return Ok(0);
    }
    // SAFETY: A new mapping, at an address that the kernel picks, which nobody reads through.
    let start = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    let mut pages = vec![0_u8; length.div_ceil(PAGE)];
    // SAFETY: The kernel writes a byte for each page of the mapping.
    let told = match unsafe { libc::mincore(start, length, pages.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: The mapping made above, which nothing refers into.
    unsafe { libc::munmap(start, length) };
    told?;
    Ok(pages.iter().filter(|page| **page & 1 != 0).count() * PAGE)
}

/// Takes what is on the disk of a file out of the page cache.
pub(crate) fn forget(file: &File) {
    // SAFETY: No pointers. It is advice, which may be refused.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}
