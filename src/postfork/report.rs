//! What the children of a start tell the host.

use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{Context, HEAD};
use crate::plan::{Fault, Lack, Launch, Operand};
use crate::sys::Told;

/// What the children of one spawn tell the host, in memory that all of them see.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pub(crate) holder: Report,
    pub(crate) cell: Report,
    /// The second cell, whose steps are told as those of the first.
    pub(crate) below: Told,
    pub(crate) init: Report,
    pub(crate) program: Report,
    pub(crate) head: Head,
    /// What the start goes on without: bits of [`Lack`].
    pub(super) lacks: AtomicU32,
    /// Not 0 while init has not been executed, and so still uses the host's memory.
    pub(crate) init_sets_up: AtomicU32,
    /// Not 0 while one of init and the program has to wait for the other in [`Step::AwaitReady`](crate::plan::Step).
    pub(super) not_ready: AtomicU32,
    /// The device and inode of the PID namespace; zeroes where they can't be told.
    pid_namespace: [AtomicU64; 2],
}

impl Reports {
    /// Whether the start went on without this.
    pub(crate) fn lacks(&self, lack: Lack) -> bool {
        self.lacks.load(Relaxed) & lack.bit() != 0
    }

    /// The PID namespace of init: its device and inode.
    pub(crate) fn pid_namespace(&self) -> (u64, u64) {
        let [device, inode] = &self.pid_namespace;
        (device.load(Relaxed), inode.load(Relaxed))
    }

    /// Remembers the PID namespace of init, for init itself or who has cloned it. Later nobody without privilege can
    /// ask, since init is not dumpable. Goes on without where there is no /proc.
    pub(super) fn note_pid_namespace(&self, context: &Context<'_>) {
        let Ok(stat) = context.stat_proc(c"/proc/self/ns/pid_for_children") else { return };
        let [device, inode] = &self.pid_namespace;
        device.store(stat.device, Relaxed);
        inode.store(stat.inode, Relaxed);
    }
}

/// What one child tells.
#[derive(Debug)]
pub(crate) struct Report {
    /// The step under way.
    step: AtomicU32,
    /// Why it failed, or 0.
    errno: AtomicI32,
    operand: AtomicU32,
    /// The process itself, if the cell has cloned it.
    pub(crate) process: Told,
}

/// The start of a program that could not be executed.
#[derive(Debug)]
pub(crate) struct Head {
    candidate: AtomicU32,
    length: AtomicU32,
    bytes: [AtomicU8; HEAD],
}

impl Default for Report {
    fn default() -> Self {
        Self {
            step: AtomicU32::new(u32::MAX),
            errno: AtomicI32::new(0),
            operand: AtomicU32::new(0),
            process: Told::default(),
        }
    }
}

impl Default for Head {
    fn default() -> Self {
        Self { candidate: AtomicU32::new(0), length: AtomicU32::new(0), bytes: [const { AtomicU8::new(0) }; HEAD] }
    }
}

impl Report {
    /// The step that was under way at the end.
    pub(crate) fn step(&self) -> usize {
        self.step.load(Relaxed) as usize
    }

    /// Why that step failed, if it did.
    pub(crate) fn fault(&self) -> Option<Fault> {
        let errno = self.errno.load(Relaxed);
        let operand = match self.operand.load(Relaxed) {
            1 => Operand::Source,
            2 => Operand::Target,
            _ => Operand::Call,
        };
        (errno != 0).then_some(Fault { errno, operand })
    }

    /// Whether all steps but the last are taken, which executes a program.
    pub(crate) fn executes(&self, launch: &Launch) -> bool {
        self.step() + 1 == launch.body.end && self.fault().is_none()
    }

    pub(super) fn fail(&self, fault: Fault) {
        let operand = match fault.operand {
            Operand::Call => 0,
            Operand::Source => 1,
            Operand::Target => 2,
        };
        self.operand.store(operand, Relaxed);
        self.errno.store(fault.errno, Relaxed);
    }

    pub(super) fn at(&self, step: usize) {
        self.step.store(step as u32, Relaxed);
    }
}

impl Head {
    /// The candidate that could not be executed, and the start of its file.
    pub(crate) fn candidate(&self) -> (usize, Vec<u8>) {
        let length = self.length.load(Relaxed) as usize;
        let head = self.bytes.iter().take(length).map(|byte| byte.load(Relaxed)).collect();
        (self.candidate.load(Relaxed) as usize, head)
    }

    pub(super) fn set(&self, index: usize, head: &[u8]) {
        self.candidate.store(index as u32, Relaxed);
        self.length.store(head.len() as u32, Relaxed);
        for (to, from) in self.bytes.iter().zip(head) {
            to.store(*from, Relaxed);
        }
    }
}
