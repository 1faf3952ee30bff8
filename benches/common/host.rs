//! What the host process is made to have: memory, descriptors, mounts.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Duration;

use super::Result;

/// No processor here has smaller pages.
const PAGE: usize = 4096;

pub(crate) fn is_root() -> bool {
    // SAFETY: No arguments, and it never fails.
    unsafe { libc::geteuid() == 0 }
}

/// The time that processors spent on the children of this process that it has waited for, and on theirs.
pub(crate) fn children_time() -> Result<Duration> {
    // SAFETY: `struct rusage` holds numbers only, for which all zeros are values.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: The kernel writes one `struct rusage`.
    check(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) })?;
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

/// How the kernel backs memory: page tables are what a fork copies, and huge pages need few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    Small,
    Huge,
}

/// Memory of the host process, all of it touched.
#[derive(Debug)]
pub(crate) struct Memory {
    start: *mut u8,
    length: usize,
}

impl Memory {
    pub(crate) fn touched(length: usize, pages: Pages) -> Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: A new mapping, at an address that the kernel picks, takes no memory from anybody.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let memory = Self { start: start.cast(), length };
        let advice = if pages == Pages::Small { libc::MADV_NOHUGEPAGE } else { libc::MADV_HUGEPAGE };
        // SAFETY: The mapping just made. A kernel without huge pages refuses the advice, and there is no other kind.
        let _ = unsafe { libc::madvise(start, length, advice) };
        for offset in (0..length).step_by(PAGE) {
            // SAFETY: The offset lies inside the mapping.
            let page = unsafe { memory.start.add(offset) };
            // SAFETY: The page is writable, and nobody else knows it.
            unsafe { page.write_volatile(1) };
        }
        Ok(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The mapping was made by `touched`, and nothing refers into it.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// What can be taken without pushing anything out, in bytes.
pub(crate) fn available_memory() -> Result<usize> {
    meminfo("MemAvailable:")
}

/// A line of /proc/meminfo, in bytes.
pub(crate) fn meminfo(name: &str) -> Result<usize> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}

/// Opens descriptors up to `count`, or as many as the host may have.
pub(crate) fn open_files(count: usize) -> Result<Vec<File>> {
    let limit = raise_file_limit(count + 256)?;
    // Each is a file of its own, as in a real host: processors would contend for the count of a shared one.
    (0..count.min(limit.saturating_sub(256))).map(|_| Ok(File::open("/dev/null")?)).collect()
}

/// Raises the limit of open files to what is wanted, as far as it may be raised; returns the limit.
fn raise_file_limit(wanted: usize) -> Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: The kernel writes one `struct rlimit`.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    let wanted = limit.rlim_cur.max(wanted as u64);
    let tried = [limit.rlim_max.max(wanted), limit.rlim_max].map(|hard| (wanted.min(hard), hard));
    for (soft, hard) in tried {
        let raised = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: The kernel reads one `struct rlimit`.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            return Ok(soft as usize);
        }
    }
    Ok(limit.rlim_cur as usize)
}

/// Gives the calling thread a mount table of its own, from which nothing reaches the host's.
pub(crate) fn private_mounts() -> Result {
    // SAFETY: No pointers. The thread has its working directory for itself from here on.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: The path ends in a zero byte and is only read; with these flags the other arguments are not used.
    check(unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), flags, ptr::null()) })
}

/// Mounts an empty file system on each of `count` new directories in `dir`.
pub(crate) fn mount_many(dir: &Path, count: usize) -> Result {
    for number in 0..count {
        let path: PathBuf = dir.join(number.to_string());
        fs::create_dir_all(&path)?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        let kind = c"tmpfs".as_ptr();
        // SAFETY: All strings end in a zero byte and are only read.
        check(unsafe { libc::mount(kind, path.as_ptr(), kind, 0, ptr::null()) })?;
    }
    Ok(())
}

fn check(result: libc::c_int) -> Result {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}
