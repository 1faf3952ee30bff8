//! A process inside that makes the system calls it is told.
//!
//! The agent is a static program of some hundred bytes with an address space of its own: nothing of the host is in it.
//! The host lists system calls with their arguments already in kernel form, and sends them; the agent makes one after the
//! other and answers. So the host works with the files and the rights of a sandbox, and can do there no more than
//! a program could.

#![cfg_attr(not(feature = "image"), allow(dead_code, reason = "what uses it is in the feature"))]

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, setsockopt, socketpair, sockopt,
};

use crate::child::Child;
use crate::error::{Error, Layer, Result};
use crate::sandbox::Sandbox;
use crate::sys::{AgentData, Errno, agent_image, receive_fd};

/// Where the agent has its socket at the start.
pub(crate) const SOCKET: RawFd = 3;

/// An argument of a system call: a number, or a place among the data of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    Number(i64),
    Data(usize),
}

impl From<i32> for Arg {
    fn from(number: i32) -> Arg {
        Arg::Number(number.into())
    }
}

impl From<u32> for Arg {
    fn from(number: u32) -> Arg {
        Arg::Number(number.into())
    }
}

impl From<u64> for Arg {
    fn from(number: u64) -> Arg {
        Arg::Number(number as i64)
    }
}

/// System calls to make, in order, and what their pointers point to.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    calls: Vec<Call>,
    data: Vec<u8>,
    /// Where in the data pointers into the data are: offsets that become addresses.
    pointers: Vec<usize>,
}

#[derive(Debug)]
struct Call {
    number: i64,
    args: [Arg; 6],
    /// 0 for no error, -1 for anything, or the one result that is right.
    expected: i64,
}

/// The length of a `struct cmsghdr` with one descriptor.
const CMSG_LENGTH: i32 = 20;

/// The size of a call in a message.
const CALL: usize = 64;

impl Calls {
    /// Adds a call that has to succeed: where one fails, the rest is not made.
    pub(crate) fn call<const N: usize>(&mut self, number: libc::c_long, args: [Arg; N]) {
        self.push(number, args, 0);
    }

    /// Adds a call that has to return just this much, which is not 0: of a write, all.
    pub(crate) fn whole<const N: usize>(&mut self, number: libc::c_long, args: [Arg; N], result: usize) {
        self.push(number, args, result as i64);
    }

    /// Adds a call whose failure does not matter.
    pub(crate) fn attempt<const N: usize>(&mut self, number: libc::c_long, args: [Arg; N]) {
        self.push(number, args, -1);
    }

    fn push<const N: usize>(&mut self, number: libc::c_long, args: [Arg; N], expected: i64) {
        let mut all = [Arg::Number(0); 6];
        all.iter_mut().zip(args).for_each(|(slot, arg)| *slot = arg);
        self.calls.push(Call { number, args: all, expected });
    }

    /// Adds data, and returns where it is.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Arg {
        // Structures of the kernel's want no more than this.
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let at = self.data.len();
        self.data.extend_from_slice(bytes);
        Arg::Data(at)
    }

    /// Adds numbers of 64 bits, and pointers among them.
    pub(crate) fn words(&mut self, words: &[Arg]) -> Arg {
        let at = self.data(&[]);
        for word in words {
            let value = match word {
                Arg::Number(number) => *number as u64,
                Arg::Data(offset) => {
                    self.pointers.push(self.data.len());
                    *offset as u64
                }
            };
            self.data.extend_from_slice(&value.to_le_bytes());
        }
        at
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// The size of the message.
    pub(crate) fn size(&self) -> usize {
        8 + (self.calls.len() + 1) * CALL + self.data.len()
    }

    /// The message; what follows it comes on the descriptor `next`.
    fn message(&self, next: RawFd) -> Vec<u8> {
        let data = AgentData::AT + AgentData::MESSAGE + (self.size() - self.data.len()) as u64;
        let mut message = Vec::with_capacity(self.size());
        message.extend_from_slice(&i64::from(next).to_le_bytes());
        for Call { number, args, expected } in &self.calls {
            message.extend_from_slice(&number.to_le_bytes());
            for arg in args {
                let value = match arg {
                    Arg::Number(number) => *number as u64,
                    Arg::Data(offset) => data + *offset as u64,
                };
                message.extend_from_slice(&value.to_le_bytes());
            }
            message.extend_from_slice(&expected.to_le_bytes());
        }
        message.extend_from_slice(&(-1_i64).to_le_bytes());
        message.resize(message.len() + CALL - 8, 0);
        let start = message.len();
        message.extend_from_slice(&self.data);
        for pointer in &self.pointers {
            if let Some(word) = message.get_mut(start + pointer..start + pointer + 8) {
                let offset = u64::from_le_bytes(word.try_into().unwrap_or_default());
                word.copy_from_slice(&(data + offset).to_le_bytes());
            }
        }
        message
    }
}

/// What became of the calls of one message: the index of the one that failed, and why; a call that came to less than it
/// had to is said to have found no space.
pub(crate) type Answer = std::result::Result<(), (usize, Errno)>;

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: OwnedFd,
    child: Child,
    next: RawFd,
    /// How many calls the messages have that are not answered.
    sent: VecDeque<usize>,
}

impl Agent {
    /// Starts an agent as the program of a sandbox.
    pub(crate) fn start(sandbox: &Sandbox) -> Result<Agent> {
        let (inner, socket) = sockets()?;
        let mut command = sandbox.command("");
        command.agent = Some(image());
        command.stdin(crate::Stdio::null()).stdout(crate::Stdio::null()).stderr(crate::Stdio::null());
        let child = command.fd(SOCKET, inner).spawn()?;
        // The other end is in the command: a dead agent shows as the end of the stream only if nobody else has it.
        drop(command);
        Ok(Agent { socket, child, next: SOCKET, sent: VecDeque::new() })
    }

    /// Sends calls, with descriptors that get the agent's lowest free numbers. Each message is answered, in order.
    pub(crate) fn send(&mut self, calls: &Calls, fds: &[BorrowedFd<'_>]) -> Result<()> {
        if calls.size() > AgentData::MESSAGE_MAX {
            return Err(failed("send", libc::EMSGSIZE));
        }
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[] } else { &control[..] };
        let message = calls.message(self.next);
        let parts = [std::io::IoSlice::new(&message)];
        loop {
            match sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => {
                    self.sent.push_back(calls.calls.len());
                    return Ok(());
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EPIPE | nix::Error::ECONNRESET) => return Err(self.died()),
                Err(errno) => return Err(failed("send", errno as i32)),
            }
        }
    }

    /// Waits for the answer to the oldest message that has none yet.
    pub(crate) fn answer(&mut self) -> Result<Answer> {
        let mut words = [0; 16];
        let received = loop {
            match recv(self.socket.as_raw_fd(), &mut words, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ECONNRESET) => return Err(self.died()),
                result => break result.map_err(|errno| failed("answer", errno as i32))?,
            }
        };
        if received != words.len() {
            return Err(self.died());
        }
        let word =
            |range| u64::from_le_bytes(words.get(range).and_then(|b: &[u8]| b.try_into().ok()).unwrap_or_default());
        let index = word(0..8).saturating_sub(AgentData::AT + AgentData::MESSAGE + 8) as usize / CALL;
        let stopped = self.sent.pop_front().is_none_or(|calls| index < calls);
        Ok(match word(8..16) as i64 {
            errno @ -4095..=-1 => Err((index, Errno(-errno as i32))),
            _ if stopped => Err((index, Errno(libc::ENOSPC))),
            _ => Ok(()),
        })
    }

    /// Sends calls, and waits for what becomes of them.
    pub(crate) fn run(&mut self, calls: &Calls, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        self.send(calls, fds)?;
        self.answer()
    }

    /// Takes one of the agent's descriptors over.
    pub(crate) fn take_fd(&mut self, number: RawFd) -> Result<OwnedFd> {
        // On its own: where this fails, no descriptor will come before the answer.
        let mut calls = Calls::default();
        calls.call(libc::SYS_fcntl, [number.into(), libc::F_GETFD.into()]);
        self.run(&calls, &[])?.map_err(|(_, Errno(errno))| failed("send a descriptor", errno))?;
        let mut calls = Calls::default();
        let byte = calls.data(b".");
        let iovec = calls.words(&[byte, Arg::Number(1)]);
        let control_length = i64::from(CMSG_LENGTH);
        // struct cmsghdr: the length of 64 bits, then level, kind and the descriptor of 32 bits each.
        let level_and_kind = i64::from(libc::SOL_SOCKET) | i64::from(libc::SCM_RIGHTS) << 32;
        let control = calls.words(&[Arg::Number(control_length), Arg::Number(level_and_kind), number.into()]);
        let zero = Arg::Number(0);
        let header = calls.words(&[zero, zero, iovec, Arg::Number(1), control, Arg::Number(24), zero]);
        calls.call(libc::SYS_sendmsg, [self.next.into(), header, libc::MSG_NOSIGNAL.into()]);
        calls.call(libc::SYS_close, [number.into()]);
        self.send(&calls, &[])?;
        // The answer is longer than what a descriptor comes with. It comes alone where the descriptor was not sent.
        if self.waiting()? != 1 {
            let answer = self.answer()?.err().map_or(libc::EPIPE, |(_, Errno(errno))| errno);
            return Err(failed("send a descriptor", answer));
        }
        let fd = receive_fd(self.socket.as_fd()).map_err(|Errno(errno)| failed("receive a descriptor", errno));
        match self.answer()? {
            Ok(()) => fd.map(OwnedFd::from),
            Err((_, Errno(errno))) => Err(failed("send a descriptor", errno)),
        }
    }

    /// How long the next message is; 0 at the end.
    fn waiting(&mut self) -> Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut [0; 16], MsgFlags::MSG_PEEK) {
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ECONNRESET) => return Ok(0),
                result => return result.map_err(|errno| failed("answer", errno as i32)),
            }
        }
    }

    /// The agent's process.
    #[cfg(test)]
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn died(&mut self) -> Error {
        // Its end of the socket is closed a moment before it can be waited for.
        let ended = self.child.wait_timeout(std::time::Duration::from_secs(1)).ok().flatten();
        let how = ended.map_or_else(String::new, |outcome| format!(": {}", outcome.status()));
        Error::new(Layer::Process, crate::ErrorKind::Os, "agent", format!("it has ended{how}"))
    }
}

impl AsFd for Agent {
    /// The host's end of the socket: readable when there is an answer, or the agent has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn image() -> Arc<[u8]> {
    static IMAGE: std::sync::OnceLock<Arc<[u8]>> = std::sync::OnceLock::new();
    IMAGE.get_or_init(|| agent_image().into()).clone()
}

/// A pair of sockets that keep messages apart: the agent's end, and the host's.
fn sockets() -> Result<(OwnedFd, OwnedFd)> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (inner, outer) = pair.map_err(|errno| failed("socketpair", errno as i32))?;
    // As much as a message has, if the host allows it: else a long one would be refused.
    let _ = setsockopt(&outer, sockopt::SndBuf, &(2 * AgentData::MESSAGE_MAX));
    Ok((inner, outer))
}

fn failed(step: &str, errno: i32) -> Error {
    Error::os(Layer::Process, format!("agent: {step}"), errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Landlock, Seccomp};

    fn number(number: i64) -> Arg {
        Arg::Number(number)
    }

    #[test]
    fn an_agent_makes_calls_inside_and_tells_which_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let mut agent = Agent::start(&Sandbox::new().bind(&dir, "/dir")).unwrap();
        for name in ["one", "two"] {
            let mut calls = Calls::default();
            let path = calls.data(format!("/dir/{name}\0").as_bytes());
            calls.attempt(libc::SYS_unlinkat, [libc::AT_FDCWD.into(), path, number(0)]);
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
            calls.call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, flags.into(), number(0o644)]);
            let text = calls.data(b"hello");
            calls.call(libc::SYS_write, [number(4), text, number(5)]);
            calls.call(libc::SYS_close, [number(4)]);
            assert_eq!(agent.run(&calls, &[]).unwrap(), Ok(()));
            assert_eq!(std::fs::read(dir.join(name)).unwrap(), b"hello");
        }
        let mut calls = Calls::default();
        let path = calls.data(b"/etc/passwd\0");
        calls.call(libc::SYS_getpid, []);
        calls.call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, number(0), number(0)]);
        calls.call(libc::SYS_exit_group, [number(1)]);
        assert_eq!(agent.run(&calls, &[]).unwrap(), Err((1, Errno(libc::ENOENT))));
        assert_eq!(agent.run(&Calls::default(), &[]).unwrap(), Ok(()), "it is still there");
    }

    #[test]
    fn an_agent_gets_descriptors_and_long_messages() {
        let mut agent = Agent::start(&Sandbox::new()).unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut calls = Calls::default();
        let text = calls.data(&vec![b'x'; 60_000]);
        calls.call(libc::SYS_write, [number(4), text, number(60_000)]);
        for _ in 0..500 {
            calls.call(libc::SYS_getppid, []);
        }
        calls.call(libc::SYS_close, [number(4)]);
        assert_eq!(agent.run(&calls, &[write.as_fd()]).unwrap(), Ok(()));
        drop(write);
        let read = std::io::read_to_string(std::fs::File::from(read)).unwrap();
        assert_eq!(read.len(), 60_000);
    }

    #[test]
    fn an_agent_hands_descriptors_out_and_tells_of_writes_cut_short() {
        let mut agent = Agent::start(&Sandbox::new().tmpfs(crate::Tmpfs::new("/t").size(8192))).unwrap();
        let mut calls = Calls::default();
        let path = calls.data(b"/t/file\0");
        let flags = libc::O_CREAT | libc::O_RDWR;
        calls.call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, flags.into(), number(0o600)]);
        let text = calls.data(&vec![b'x'; 10_000]);
        calls.whole(libc::SYS_write, [number(4), text, number(4000)], 4000);
        calls.whole(libc::SYS_write, [number(4), text, number(10_000)], 10_000);
        assert_eq!(agent.run(&calls, &[]).unwrap(), Err((2, Errno(libc::ENOSPC))));
        let file = std::fs::File::from(agent.take_fd(4).unwrap());
        assert_eq!(file.metadata().unwrap().len(), 8192);
        assert!(agent.take_fd(4).is_err(), "it was closed");
        assert_eq!(agent.run(&Calls::default(), &[]).unwrap(), Ok(()));
    }

    #[test]
    fn an_agent_hands_descriptors_out_while_signals_come() {
        extern "C" fn ignore(_: libc::c_int) {}
        // SAFETY: All zeroes is a value of this plain structure: no flags, and so no SA_RESTART.
        #[allow(unsafe_code)]
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = ignore as *const () as usize;
        // SAFETY: The handler does nothing. Nobody else here uses this signal.
        #[allow(unsafe_code)]
        let set = unsafe { libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()) };
        assert_eq!(set, 0);
        // SAFETY: No pointers.
        #[allow(unsafe_code)]
        let thread = unsafe { libc::gettid() };
        let process = std::process::id();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    // SAFETY: No pointers; the thread waits for this one.
                    #[allow(unsafe_code)]
                    unsafe {
                        libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGURG)
                    };
                    std::thread::sleep(std::time::Duration::from_micros(20));
                }
            });
            let mut agent = Agent::start(&Sandbox::new()).unwrap();
            let taken = (0..2000).try_for_each(|_| {
                let mut calls = Calls::default();
                let path = calls.data(b"/\0");
                calls.call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, libc::O_DIRECTORY.into(), number(0)]);
                assert_eq!(agent.run(&calls, &[])?, Ok(()));
                agent.take_fd(4).map(drop)
            });
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            taken.unwrap();
        });
    }

    #[test]
    fn an_agent_executes_a_program() {
        let mut agent = Agent::start(&Sandbox::new().rootfs(crate::Rootfs::host())).unwrap();
        let mut calls = Calls::default();
        let path = calls.data(b"/bin/sh\0");
        let args = [b"sh\0".as_slice(), b"-c\0", b"exit 7\0"].map(|arg| calls.data(arg));
        let argv = calls.words(&[args[0], args[1], args[2], number(0)]);
        let envp = calls.words(&[number(0)]);
        calls.call(libc::SYS_execve, [path, argv, envp]);
        agent.send(&calls, &[]).unwrap();
        assert!(agent.answer().is_err(), "there is no agent any more");
        assert_eq!(agent.child().wait().unwrap().code(), Some(7));
    }

    #[test]
    fn an_agent_is_confined_and_ends_with_its_handle() {
        let mut agent = Agent::start(&Sandbox::new()).unwrap();
        let mut calls = Calls::default();
        calls.call(libc::SYS_mount, [number(0); 5]);
        assert_eq!(agent.run(&calls, &[]).unwrap(), Err((0, Errno(libc::EPERM))));
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.child().id())).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
        let pid = agent.child().id();
        drop(agent);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        let alone = Sandbox::new().landlock(Landlock::off()).seccomp(Seccomp::off());
        assert_eq!(Agent::start(&alone).unwrap().run(&Calls::default(), &[]).unwrap(), Ok(()));
    }
}
