//! A process inside that makes the system calls it is told.
//!
//! The agent is a static program of some hundred bytes with an address space of its own: nothing of the host is in it.
//! The host lists system calls with their arguments already in kernel form, and sends them; the agent makes one after the
//! other and answers. So the host works with the files and the rights of a sandbox, and can do there no more than
//! a program could.

#![cfg_attr(not(feature = "image"), allow(dead_code, reason = "the store of images uses more of it"))]

mod fork;
mod order;

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, setsockopt, socketpair, sockopt,
};

use crate::child::Child;
use crate::command::Command;
use crate::error::{Error, Layer, Result};
use crate::pool::Shared;
use crate::sandbox::Sandbox;
use crate::spawn::above_streams;
use crate::sys::{AgentData, Errno, agent_image, pidfd_send_signal};
pub(crate) use order::{Executed, Order, PARKED, sent};

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

/// After how long without an answer an agent may have been stopped, in milliseconds.
const STOPPED: u8 = 10;

/// How many descriptors one message may have (`SCM_MAX_FD`): unix(7).
const AT_ONCE: usize = 253;

/// The size of a call in a message, and that of an answer.
const CALL: usize = 64;
const ANSWER: usize = 16;

impl Calls {
    /// Adds a call that has to succeed: where one fails, the rest is not made.
    pub(crate) fn call<const N: usize>(&mut self, number: libc::c_long, args: [Arg; N]) {
        self.push(number, args, 0);
    }

    /// Adds a call that has to return just this much, which is not 0: of a write, all.
    pub(crate) fn whole<const N: usize>(&mut self, number: libc::c_long, args: [Arg; N], result: usize) {
        self.push(number, args, result as i64);
    }

    /// Adds a call that goes on only if it fails like this: execve(2) does not come back otherwise.
    pub(crate) fn unless<const N: usize>(&mut self, number: libc::c_long, args: [Arg; N], errno: i32) {
        self.push(number, args, -i64::from(errno));
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

    /// Whether the message is one that can be sent.
    pub(crate) fn fits(&self) -> bool {
        self.size() <= AgentData::MESSAGE_MAX
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
    /// Until when answers are waited for, if there is somebody inside who can stop the agent.
    until: Option<Instant>,
}

impl Agent {
    /// Starts an agent as the program of a sandbox.
    pub(crate) fn start(sandbox: &Sandbox) -> Result<Agent> {
        Self::start_as(sandbox.command(""))
    }

    /// Starts an agent without the filter that the policy names, if it names one: the agent puts it on itself, last.
    pub(crate) fn start_unfiltered(mut command: Command) -> Result<Agent> {
        command.filters_itself = true;
        Self::start_as(command)
    }

    fn start_as(mut command: Command) -> Result<Agent> {
        let (inner, socket) = sockets()?;
        command.agent = Some(image());
        command.stdin(crate::Stdio::null()).stdout(crate::Stdio::null()).stderr(crate::Stdio::null());
        let child = command.fd(SOCKET, inner).spawn()?;
        // The other end is in the command: a dead agent shows as the end of the stream only if nobody else has it.
        drop(command);
        Ok(Self::new(child, socket, SOCKET))
    }

    /// An agent that is there, with its socket at `next`.
    pub(crate) fn new(child: Child, socket: OwnedFd, next: RawFd) -> Agent {
        Agent { socket, child, next, sent: VecDeque::new(), until: None }
    }

    /// Gives the agent up after this long, all that it does included; until then, it is woken if somebody has stopped it.
    pub(crate) fn with_patience(mut self, patience: Duration) -> Agent {
        self.until = Instant::now().checked_add(patience);
        self
    }

    /// Sends calls, with descriptors that get the agent's lowest free numbers. Each message is answered, in order.
    pub(crate) fn send(&mut self, calls: &Calls, fds: &[BorrowedFd<'_>]) -> Result<()> {
        if !calls.fits() {
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

    /// Sends descriptors before a message, but for those that this has room for, which are returned. They get the agent's lowest
    /// free numbers in the same order.
    fn send_ahead<'a, 'b>(&mut self, fds: &'b [BorrowedFd<'a>]) -> Result<&'b [BorrowedFd<'a>]> {
        let mut left = fds;
        while let Some((ahead, rest)) = left.split_at_checked(AT_ONCE).filter(|(_, rest)| !rest.is_empty()) {
            self.run(&Calls::default(), ahead)?.map_err(|(_, Errno(errno))| failed("send descriptors", errno))?;
            left = rest;
        }
        Ok(left)
    }

    /// Waits for the answer to the oldest message that has none yet.
    pub(crate) fn answer(&mut self) -> Result<Answer> {
        let mut words = [0; ANSWER];
        match self.receive(&mut words, MsgFlags::empty()) {
            Ok(ANSWER) => {}
            Ok(_) | Err(nix::Error::ECONNRESET) => return Err(self.died()),
            Err(errno) => return Err(failed("answer", errno as i32)),
        }
        Ok(decode(&words, self.sent.pop_front().unwrap_or(usize::MAX)))
    }

    /// Sends calls, and waits for what becomes of them.
    pub(crate) fn run(&mut self, calls: &Calls, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        self.send(calls, fds)?;
        self.answer()
    }

    /// Takes one of the agent's descriptors over.
    pub(crate) fn take_fd(&mut self, number: RawFd) -> Result<OwnedFd> {
        self.take_fds(number, 1)?.pop().ok_or_else(|| failed("send descriptors", libc::EPIPE))
    }

    /// How long the next message is; 0 at the end.
    fn waiting(&mut self) -> Result<usize> {
        match self.receive(&mut [0; ANSWER], MsgFlags::MSG_PEEK) {
            Err(nix::Error::ECONNRESET) => Ok(0),
            received => received.map_err(|errno| failed("answer", errno as i32)),
        }
    }

    /// Moves the agent's socket to a number that is free.
    pub(crate) fn move_socket(&mut self, to: RawFd) -> Result<Answer> {
        let from = self.next;
        let mut calls = Calls::default();
        // Answered where it was, whether this succeeds or not.
        calls.whole(libc::SYS_dup3, [from.into(), to.into(), libc::O_CLOEXEC.into()], to.unsigned_abs() as usize);
        if let Err(fault) = self.run(&calls, &[])? {
            return Ok(Err(fault));
        }
        self.next = to;
        let mut calls = Calls::default();
        calls.call(libc::SYS_close, [from.into()]);
        self.run(&calls, &[])
    }

    /// Sends calls, the last of which executes a program. No answer if there is no agent any more, which it takes an exec or
    /// a signal for, as long as the agent can answer.
    fn execute(&mut self, calls: &Calls, fds: &[BorrowedFd<'_>]) -> Result<Option<Answer>> {
        let fds = self.send_ahead(fds)?;
        self.send(calls, fds)?;
        // The socket ends with the exec. An agent that was killed before it had read this shows as ECONNRESET.
        let mut words = [0; ANSWER];
        match self.receive(&mut words, MsgFlags::empty()) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(decode(&words, calls.len()))),
            Err(errno) => Err(failed("answer", errno as i32)),
        }
    }

    /// Starts to count the time that the program may take.
    pub(crate) fn begin(&mut self, started: Instant) -> Result<()> {
        self.child.begin(started)
    }

    /// The program that the agent has become, with what the host has of its streams.
    pub(crate) fn into_child(self, streams: [Option<OwnedFd>; 3], started: Instant, pool: Arc<Shared>) -> Child {
        let mut child = self.child;
        child.adopt(streams, started, pool);
        child
    }

    fn receive(&self, words: &mut [u8; ANSWER], flags: MsgFlags) -> nix::Result<usize> {
        if let Some(until) = self.until {
            self.wait_readable(until)?;
        }
        loop {
            match recv(self.socket.as_raw_fd(), words, flags) {
                Err(nix::Error::EINTR) => {}
                received => return received,
            }
        }
    }

    /// Waits until there is something to receive.
    fn wait_readable(&self, until: Instant) -> nix::Result<()> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        while Instant::now() < until {
            match poll(&mut fds, PollTimeout::from(STOPPED)) {
                Ok(0) => drop(pidfd_send_signal(self.child.as_fd(), libc::SIGCONT)),
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(nix::Error::ETIMEDOUT)
    }

    /// The program that the agent has become.
    pub(crate) fn into_program(self) -> Child {
        self.child
    }

    /// The agent's process.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn died(&mut self) -> Error {
        // Its end of the socket is closed a moment before it can be waited for.
        let ended = self.child.wait_timeout(Duration::from_secs(1)).ok().flatten();
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

/// What an agent says of `calls` calls: where it has stopped, and with what result.
fn decode(words: &[u8; ANSWER], calls: usize) -> Answer {
    let word = |range| u64::from_le_bytes(words.get(range).and_then(|b: &[u8]| b.try_into().ok()).unwrap_or_default());
    let index = word(0..8).saturating_sub(AgentData::AT + AgentData::MESSAGE + 8) as usize / CALL;
    match word(8..16) as i64 {
        errno @ -4095..=-1 => Err((index, Errno(-errno as i32))),
        _ if index < calls => Err((index, Errno(libc::ENOSPC))),
        _ => Ok(()),
    }
}

/// The file that an agent is executed from.
pub(crate) fn image() -> Arc<[u8]> {
    static IMAGE: std::sync::OnceLock<Arc<[u8]>> = std::sync::OnceLock::new();
    IMAGE.get_or_init(|| agent_image().into()).clone()
}

/// A pair of sockets that keep messages apart: the agent's end, and the host's.
pub(crate) fn sockets() -> Result<(OwnedFd, OwnedFd)> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (inner, outer) = pair.map_err(|errno| failed("socketpair", errno as i32))?;
    // As a stream of a host that has closed it, the next program would inherit it.
    let outer = above_streams(outer)?;
    // As much as a message has, if the host allows it: else a long one would be refused.
    let _ = setsockopt(&outer, sockopt::SndBuf, &(2 * AgentData::MESSAGE_MAX));
    Ok((inner, outer))
}

fn failed(step: &str, errno: i32) -> Error {
    Error::os(Layer::Process, format!("agent: {step}"), errno)
}

#[cfg(test)]
mod tests {
    mod calls;
}
