//! The last calls of an agent: those that make it the program.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{ANSWER, Agent, Answer, Arg, Calls, SOCKET};
use crate::error::{Error, Layer, Result};
use crate::plan::Step;
use crate::spawn::{Wiring, above_streams};
use crate::sys::{AgentData, BpfInstruction, CStringArray, Errno};

/// Where an agent that will execute a program has its socket: out of the way of most programs' descriptors, and the last
/// number for which every process has room already (`NR_OPEN_DEFAULT`).
pub(crate) const PARKED: RawFd = 63;

/// The agent's first free descriptor, once its socket is parked: where what is sent to it arrives.
const FIRST: RawFd = SOCKET;

/// What is sent to an agent: calls, with descriptors and the numbers that they are to have.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) calls: Calls,
    sent: Vec<(BorrowedFd<'a>, RawFd)>,
    witness: Option<File>,
    strings: Option<File>,
}

/// What has become of an order.
#[derive(Debug)]
pub(crate) enum Executed {
    /// The agent is the program.
    Yes,
    /// The call that failed, and why, as far as the agent could tell.
    No(Option<(usize, Errno)>),
}

impl<'a> Order<'a> {
    /// An order that may be answered by the socket, unless there are filters to come: behind one of the caller's the agent may
    /// not be allowed to send.
    pub(crate) fn new(sent: Vec<(BorrowedFd<'a>, RawFd)>, filters: &[Step]) -> Result<Self> {
        let mut order = Self { calls: Calls::default(), sent, witness: None, strings: None };
        if filters.iter().any(|step| matches!(step, Step::Seccomp { .. })) {
            order.witness = Some(witness()?);
            map_witness(order.next(), &mut order.calls);
        }
        Ok(order)
    }

    /// Has the agent map arguments and environment, which are too long for a message; returns where their pointers are. Before
    /// anything is put in place.
    pub(crate) fn map_strings(&mut self, argv: &CStringArray, envp: &CStringArray) -> Result<[Arg; 2]> {
        let failed = |errno: i32| Error::os(Layer::Exec, "memfd", errno);
        let (memory, envp_at) = strings(argv, envp);
        let file = memory_file(failed)?;
        file.write_all_at(&memory, 0).map_err(|error| failed(error.raw_os_error().unwrap_or(libc::EIO)))?;
        let number = self.next() + i32::from(self.witness.is_some());
        let [access, flags] = [libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_FIXED].map(Arg::from);
        let args = [STRINGS.into(), Arg::from(memory.len() as u64), access, flags, number.into(), 0.into()];
        self.calls.whole(libc::SYS_mmap, args, STRINGS as usize);
        self.calls.call(libc::SYS_close, [number.into()]);
        self.strings = Some(file);
        Ok([STRINGS, envp_at].map(Arg::from))
    }

    /// The number of what is opened next.
    pub(crate) fn next(&self) -> RawFd {
        FIRST + self.sent.len() as RawFd
    }

    /// Puts descriptors where the program is to have them. Where they have arrived, the exec closes them.
    pub(crate) fn put_in_place(&mut self) {
        let copy = |calls: &mut Calls, from: RawFd, to: RawFd, flags: i32| {
            calls.call(libc::SYS_dup3, [from.into(), to.into(), flags.into()]);
        };
        let (sent, calls) = (&self.sent, &mut self.calls);
        let mut first = FIRST;
        if sent.iter().any(|(_, to)| *to >= FIRST) {
            // First out of each other's way.
            (first, _) = clear_of(sent);
            for index in 0..sent.len() as RawFd {
                copy(calls, FIRST + index, first.saturating_add(index), libc::O_CLOEXEC);
            }
        }
        for (index, (_, to)) in (0..).zip(sent) {
            copy(calls, first.saturating_add(index), *to, 0);
        }
    }
}

/// What is sent to the agent, and the number that each is to have.
pub(crate) fn sent<'a>(steps: &[Step], wiring: &'a Wiring) -> Vec<(BorrowedFd<'a>, RawFd)> {
    let mut opened = 0..;
    let source = |step: &Step| match step {
        Step::Inherit { fd } => Some((crate::sys::borrow(*fd), *fd)),
        Step::Install { fd, .. } | Step::InstallNull { fd, .. } => Some((wiring.get(opened.next()?)?, *fd)),
        _ => None,
    };
    steps.iter().filter_map(source).collect()
}

impl Agent {
    /// Has the agent execute a program.
    pub(crate) fn carry_out(&mut self, order: &Order<'_>) -> Result<Executed> {
        let failed = |(_, Errno(errno))| Error::os(Layer::Process, "agent: make room", errno);
        let (_, above) = clear_of(&order.sent);
        if above > PARKED {
            self.move_socket(above)?.map_err(failed)?;
        }
        let files = order.witness.iter().chain(&order.strings).map(AsFd::as_fd);
        let sources: Vec<BorrowedFd<'_>> = order.sent.iter().map(|(source, _)| *source).chain(files).collect();
        let answer = self.execute(&order.calls, &sources)?;
        let told = order.witness.as_ref().and_then(|page| told(page, order.calls.len()));
        Ok(match (answer, told) {
            (None, None) => Executed::Yes,
            (answer, told) => Executed::No(told.or(answer).and_then(Answer::err)),
        })
    }
}

/// A page that the agent leaves its answer in.
fn witness() -> Result<File> {
    let failed = |errno: i32| Error::os(Layer::Seccomp, "memfd", errno);
    let page = memory_file(failed)?;
    page.set_len(AgentData::MESSAGE).map_err(|error| failed(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(page)
}

fn memory_file(failed: impl Fn(i32) -> Error) -> Result<File> {
    let file = memfd_create(c"belljar", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(errno as i32))?;
    Ok(above_streams(file)?.into())
}

/// Where an agent maps arguments and environment: above all of its own memory.
const STRINGS: u64 = 0x2000_0000;

/// The memory at [`STRINGS`]: the pointers of arguments and environment, each list with a null pointer at its end, then what they
/// point to. And where the second list starts.
fn strings(argv: &CStringArray, envp: &CStringArray) -> (Vec<u8>, u64) {
    let size = |list: &CStringArray| 8 * (list.iter().count() as u64 + 1);
    let envp_at = STRINGS + size(argv);
    let mut next = envp_at + size(envp);
    let (mut pointers, mut bytes) = (Vec::new(), Vec::new());
    for list in [argv, envp] {
        for string in list.iter().map(CStr::to_bytes_with_nul) {
            pointers.extend_from_slice(&next.to_le_bytes());
            bytes.extend_from_slice(string);
            next += string.len() as u64;
        }
        pointers.extend_from_slice(&0_u64.to_le_bytes());
    }
    pointers.append(&mut bytes);
    (pointers, envp_at)
}

/// In the place of the agent's own page: the next message is its last, so that it needs the rest of that no more.
fn map_witness(fd: RawFd, calls: &mut Calls) {
    let [access, flags] = [libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED];
    let [at, length] = [AgentData::AT, AgentData::MESSAGE].map(Arg::from);
    calls.call(libc::SYS_mmap, [at, length, access.into(), flags.into(), fd.into(), 0.into()]);
    calls.call(libc::SYS_close, [fd.into()]);
}

/// The answer, if there is one, which there is of calls that have failed; the mapping goes with the exec.
fn told(page: &File, calls: usize) -> Option<Answer> {
    let mut words = [0; ANSWER];
    match page.read_exact_at(&mut words, AgentData::ANSWER) {
        Ok(()) if words == [0; ANSWER] => None,
        Ok(()) => Some(super::decode(&words, calls)),
        Err(error) => Some(Err((0, Errno(error.raw_os_error().unwrap_or(libc::EIO))))),
    }
}

/// The first number that nothing arrives at and nothing is to have, and the first behind a copy of all that is sent.
fn clear_of(sent: &[(BorrowedFd<'_>, RawFd)]) -> (RawFd, RawFd) {
    let highest = sent.iter().map(|(_, to)| *to).max().unwrap_or(0);
    let count = sent.len() as RawFd;
    // Two more arrive, or are opened.
    // A number that no process has room for is refused by the kernel, and not a reason to count beyond all numbers.
    let clear = (FIRST + count + 1).max(highest).saturating_add(1);
    (clear, clear.saturating_add(count))
}

impl Calls {
    /// Goes to a directory; `opened` is the number that it is opened as. Never through a link of /proc.
    pub(crate) fn change_directory(&mut self, directory: &CString, opened: RawFd) {
        let path = self.data(directory.as_bytes_with_nul());
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        self.open(path, flags, libc::RESOLVE_NO_MAGICLINKS, Calls::call);
        self.call(libc::SYS_fchdir, [opened.into()]);
        self.call(libc::SYS_close, [opened.into()]);
    }

    /// openat2(2), by one of the ways to add a call.
    pub(crate) fn open(&mut self, path: Arg, flags: i32, resolve: u64, add: fn(&mut Calls, libc::c_long, [Arg; 4])) {
        let how = self.words(&[flags.into(), 0.into(), resolve.into()]);
        add(self, libc::SYS_openat2, [libc::AT_FDCWD.into(), path, how, 24.into()]);
    }

    /// Adds what would be in the way of an agent that waits: a low limit of descriptors, and a filter of the caller's.
    pub(crate) fn add_last(&mut self, step: &Step) {
        match step {
            Step::Limit { resource, soft, hard, .. } => {
                let limit = self.words(&[Arg::Number(*soft as i64), Arg::Number(*hard as i64)]);
                let resource = Arg::Number((*resource).into());
                self.call(libc::SYS_prlimit64, [0.into(), resource, limit, 0.into()]);
            }
            Step::Seccomp { program } => self.add_filter(program),
            _ => {}
        }
    }

    fn add_filter(&mut self, program: &[BpfInstruction]) {
        const SECCOMP_SET_MODE_FILTER: i32 = 1;
        let instructions = self.data(&crate::sys::filter_bytes(program));
        let program = self.words(&[Arg::Number(program.len() as i64), instructions]);
        self.call(libc::SYS_seccomp, [SECCOMP_SET_MODE_FILTER.into(), 0.into(), program]);
    }

    /// Executes the first of the candidates that is there.
    pub(crate) fn execute_one(&mut self, candidates: &[CString], argv: &CStringArray, envp: &CStringArray) {
        let [argv, envp] = [argv, envp].map(|strings| {
            let strings: Vec<Arg> = strings.iter().map(|string| self.data(string.to_bytes_with_nul())).collect();
            self.words(&[&strings[..], &[Arg::Number(0)]].concat())
        });
        for (index, path) in candidates.iter().enumerate() {
            let path = self.data(path.as_bytes_with_nul());
            if index + 1 == candidates.len() {
                return self.call(libc::SYS_execve, [path, argv, envp]);
            }
            self.unless(libc::SYS_execve, [path, argv, envp], libc::ENOENT);
            // A program that is there, and lacks what it needs to start, is not passed over.
            let flags = libc::O_PATH | libc::O_CLOEXEC;
            self.unless(libc::SYS_openat, [libc::AT_FDCWD.into(), path, flags.into()], libc::ENOENT);
        }
    }
}
