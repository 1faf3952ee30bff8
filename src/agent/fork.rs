//! An agent's copy in a PID namespace that it has joined.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;

use super::{Agent, Arg, CMSG_LENGTH, Calls, SOCKET, failed, sockets};
use crate::child::Child;
use crate::error::Result;
use crate::spawn::{Process, above_streams, pid_of};
use crate::sys::{Cloned, Errno, receive_fd};

/// Where the copy has its socket, and what else the agent has for a moment: its own pidfd, and that of the copy.
const COPY: RawFd = SOCKET + 1;
const OWN: RawFd = SOCKET + 2;
const CLONED: RawFd = SOCKET + 3;

impl Agent {
    /// Has the agent clone a copy of itself as the host's child, with a socket of its own, and end.
    ///
    /// Both make the same calls from the clone on. The agent hands the copy's pidfd out and kills itself; the copy has no such
    /// descriptor, and can't name a process outside of its namespace.
    pub(crate) fn fork(mut self, child: impl FnOnce(Process) -> Result<Child>, patience: Duration) -> Result<Agent> {
        let (inner, outer) = sockets()?;
        let own = self.child.as_fd().try_clone_to_owned();
        let own = own.map_err(|error| failed("dup", error.raw_os_error().unwrap_or(libc::EMFILE)))?;
        let mut calls = Calls::default();
        let zero = Arg::Number(0);
        let pidfd = calls.words(&[zero]);
        let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD;
        calls.call(libc::SYS_clone, [flags.into(), zero, pidfd, zero, zero]);
        hand_out(SOCKET, CLONED, &mut calls, Calls::attempt);
        calls.attempt(libc::SYS_pidfd_send_signal, [OWN.into(), libc::SIGKILL.into(), zero, zero]);
        calls.call(libc::SYS_close_range, [OWN.into(), u32::MAX.into(), zero]);
        calls.call(libc::SYS_close, [SOCKET.into()]);
        self.next = COPY;
        self.send(&calls, &[inner.as_fd(), own.as_fd()])?;
        drop(inner);
        let mut copy = Unowned { socket: outer, calls: calls.len(), answered: false };
        let process = copy.process(self.socket.as_fd())?;
        let mut agent = Agent::new(child(process)?, copy.socket, COPY).with_patience(patience);
        if !copy.answered {
            agent.sent.push_back(copy.calls);
            agent.answer()?.map_err(|(_, Errno(errno))| failed("clone", errno))?;
        }
        Ok(agent)
    }

    /// Takes some of the agent's descriptors over, which are open.
    ///
    /// Each comes by itself: of several in one message the kernel puts as many in place as the host has room for, and who is
    /// told that some are missing has to find the others.
    pub(crate) fn take_fds(&mut self, first: RawFd, count: usize) -> Result<Vec<OwnedFd>> {
        let mut calls = Calls::default();
        let last = first + count as RawFd - 1;
        for number in first..=last {
            hand_out(self.next, number, &mut calls, Calls::call);
        }
        calls.call(libc::SYS_close_range, [first.into(), last.into(), 0.into()]);
        self.send(&calls, &[])?;
        let mut fds = Vec::with_capacity(count);
        // The answer is longer than what a descriptor comes with.
        while fds.len() < count && self.waiting()? == 1 {
            let fd = receive_fd(self.socket.as_fd()).map_err(|_| failed("receive descriptors", libc::EMFILE))?;
            fds.push(above_streams(fd.into())?);
        }
        self.answer()?.map_err(|(_, Errno(errno))| failed("send descriptors", errno))?;
        Ok(fds)
    }
}

/// A copy that nobody owns yet.
struct Unowned {
    socket: OwnedFd,
    calls: usize,
    answered: bool,
}

impl Unowned {
    /// Waits for the pidfd on the agent's socket, or for the news on the copy's that there is none.
    fn process(&mut self, agent: BorrowedFd<'_>) -> Result<Process> {
        let mut fds = [agent, self.socket.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        while let Err(errno) = poll(&mut fds, PollTimeout::NONE) {
            if errno != nix::Error::EINTR {
                return Err(failed("clone", errno as i32));
            }
        }
        let [pidfd, _] = fds.map(|fd| fd.any().unwrap_or(false));
        if !pidfd {
            // Sent by the agent if it could not clone, else by the copy.
            let mut words = [0; super::ANSWER];
            let received = nix::sys::socket::recv(self.socket.as_raw_fd(), &mut words, MsgFlags::empty());
            if !matches!(received, Ok(super::ANSWER)) {
                return Err(failed("clone", libc::ECHILD));
            }
            super::decode(&words, self.calls).map_err(|(_, Errno(errno))| failed("clone", errno))?;
            self.answered = true;
        }
        let pidfd = receive_fd(agent).map_err(|Errno(errno)| failed("clone", errno))?;
        let pid = pid_of(pidfd.as_fd()).ok_or(failed("clone", libc::ESRCH))?;
        Ok(Process::from(Cloned { pid, pidfd }))
    }
}

/// Adds the call that sends a descriptor, with one byte.
fn hand_out(socket: RawFd, number: RawFd, calls: &mut Calls, add: fn(&mut Calls, libc::c_long, [Arg; 3])) {
    let (zero, one) = (Arg::Number(0), Arg::Number(1));
    let byte = calls.data(b".");
    let iovec = calls.words(&[byte, one]);
    // struct cmsghdr: the length of 64 bits, then level, kind and the descriptor of 32 bits each.
    let level_and_kind = i64::from(libc::SOL_SOCKET) | i64::from(libc::SCM_RIGHTS) << 32;
    let control = calls.words(&[Arg::from(CMSG_LENGTH), Arg::Number(level_and_kind), number.into()]);
    let header = calls.words(&[zero, zero, iovec, one, control, Arg::Number(24), zero]);
    add(calls, libc::SYS_sendmsg, [socket.into(), header, libc::MSG_NOSIGNAL.into()]);
}
