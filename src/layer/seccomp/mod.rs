//! The filter of system calls: seccomp(2).

mod bpf;
#[cfg(feature = "oci")]
mod oci;
mod profile;
mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Layer, Result};
use crate::plan::Step;
use crate::sys::{BpfInstruction, Errno, seccomp_has};

/// A filter of system calls: which ones the program may make, by name and by argument.
///
/// The default, [`Seccomp::container`], has the strictness of container engines' profiles. What is refused fails with
/// EPERM, and what the filter does not know, being newer, with ENOSYS, on which libcs fall back. System calls of other
/// processor modes (32-bit, x32) fail with ENOSYS.
///
/// Later rules win over earlier ones. Names that this processor does not have are refused when a command is started, and so
/// are conditions that can't be, and rules that come to more than the 4096 instructions that the kernel takes.
///
/// # Kernel
///
/// Every supported kernel, if it is built with `CONFIG_SECCOMP_FILTER`.
///
/// # Examples
///
/// ```
/// use belljar::{Sandbox, Seccomp, SyscallArg};
///
/// // A debugger may trace, and nobody may make the system log readable.
/// let seccomp = Seccomp::container().allow(["ptrace"]).deny(["syslog"]);
/// // No IPv6 socket: the first argument of socket(2) is 10.
/// let seccomp = seccomp.deny_if("socket", [SyscallArg::eq(0, 10)]);
/// let sandbox = Sandbox::new().seccomp(seccomp);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seccomp {
    /// What happens to system calls that no rule names; None for no filter at all.
    default: Option<Action>,
    rules: Vec<Rule>,
    raw: Vec<Vec<u8>>,
}

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Allow,
    Errno(u16),
    KillProcess,
    /// Allows, and has the kernel log it.
    #[cfg(feature = "oci")]
    Log,
    /// Sends SIGSYS to the thread, which may handle it.
    #[cfg(feature = "oci")]
    Trap,
}

/// What the rules say of one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    name: String,
    args: Vec<SyscallArg>,
    action: Action,
    /// Whether a name that this processor does not have is no mistake.
    lenient: bool,
}

/// A condition on one argument of a system call.
///
/// Arguments are numbers of 64 bits, as they are passed in registers. Of an argument that the kernel takes as 32 bits,
/// compare these alone, by [`masked_eq`](SyscallArg::masked_eq): the upper half can be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SyscallArg {
    pub(crate) index: u8,
    pub(crate) operator: Operator,
    pub(crate) mask: u64,
    pub(crate) value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operator {
    Eq,
    Ne,
    Ge,
    Gt,
    Le,
    Lt,
}

impl SyscallArg {
    fn new(index: u8, operator: Operator, mask: u64, value: u64) -> Self {
        Self { index, operator, mask, value }
    }

    /// The argument, counted from 0 to 5, equals `value`.
    pub fn eq(index: u8, value: u64) -> Self {
        Self::new(index, Operator::Eq, u64::MAX, value)
    }

    /// The argument does not equal `value`.
    pub fn ne(index: u8, value: u64) -> Self {
        Self::new(index, Operator::Ne, u64::MAX, value)
    }

    /// The bits of the argument that are in `mask` equal `value`.
    pub fn masked_eq(index: u8, mask: u64, value: u64) -> Self {
        Self::new(index, Operator::Eq, mask, value)
    }

    /// The argument is at least `value`.
    pub fn ge(index: u8, value: u64) -> Self {
        Self::new(index, Operator::Ge, u64::MAX, value)
    }

    /// The argument is at most `value`.
    pub fn le(index: u8, value: u64) -> Self {
        Self::new(index, Operator::Le, u64::MAX, value)
    }

    /// The argument is greater than `value`.
    pub fn gt(index: u8, value: u64) -> Self {
        Self::new(index, Operator::Gt, u64::MAX, value)
    }

    /// The argument is less than `value`.
    pub fn lt(index: u8, value: u64) -> Self {
        Self::new(index, Operator::Lt, u64::MAX, value)
    }
}

impl Default for Seccomp {
    fn default() -> Self {
        Self::container()
    }
}

impl Seccomp {
    /// The default filter, of the strictness of container engines' profiles.
    ///
    /// What Debian's profile of container engines decides otherwise is listed, with the reasons, in the tests of this crate.
    ///
    /// Refused are: keyrings; bpf, performance events, userfaultfd; io_uring; kexec and modules; mounts, chroot and
    /// namespaces; children that are the host's (CLONE_PARENT); tracing and reading other processes; sockets but for Unix, IPv4, IPv6 and routing netlink; feeding
    /// input to a terminal (TIOCSTI, TIOCLINUX); execution domains (personality) other than plain Linux; memory that the
    /// kernel can't see (memfd_secret); and what is obsolete, works on the hardware, or sets clocks and names.
    pub fn container() -> Self {
        Self { default: Some(profile::UNKNOWN), rules: profile::rules(), raw: Vec::new() }
    }

    /// No filter, until something is denied.
    ///
    /// New user namespaces are refused even so, with ENOSPC, by the sandbox's own: `off().allow(["clone", "unshare"])` is
    /// for programs that need them.
    pub fn off() -> Self {
        Self { default: None, rules: Vec::new(), raw: Vec::new() }
    }

    /// A filter that refuses everything with EPERM: what is needed is to be allowed, execve(2) included.
    pub fn new() -> Self {
        Self { default: Some(Action::Errno(libc::EPERM as u16)), rules: Vec::new(), raw: Vec::new() }
    }

    /// Refuses system calls with EPERM, whatever their arguments.
    pub fn deny(self, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.rule(names, &[], Action::Errno(libc::EPERM as u16))
    }

    /// Allows system calls, whatever their arguments.
    ///
    /// If `clone`, `clone3` or `unshare` is among them, new user namespaces are left to the filter alone: the sandbox's own
    /// refuses them otherwise. To write the maps of one takes [`Landlock::allow_write`](crate::Landlock::allow_write)
    /// of `/proc`.
    pub fn allow(self, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.rule(names, &[], Action::Allow)
    }

    /// Kills the whole process, with SIGSYS, at one of these system calls.
    ///
    /// If it is the program, everything in the sandbox ends, and the cause is [`Cause::Syscall`]. Any other process is
    /// killed alone, as by a signal, and its parent is told.
    ///
    /// [`Cause::Syscall`]: crate::Cause::Syscall
    pub fn kill(self, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.rule(names, &[], Action::KillProcess)
    }

    /// Refuses a system call with EPERM if all conditions hold for its arguments.
    pub fn deny_if(self, name: impl AsRef<str>, args: impl IntoIterator<Item = SyscallArg>) -> Self {
        let args: Vec<_> = args.into_iter().collect();
        self.rule([name], &args, Action::Errno(libc::EPERM as u16))
    }

    /// Allows a system call if all conditions hold for its arguments. For namespaces this counts as
    /// [`allow`](Seccomp::allow) does.
    pub fn allow_if(self, name: impl AsRef<str>, args: impl IntoIterator<Item = SyscallArg>) -> Self {
        let args: Vec<_> = args.into_iter().collect();
        self.rule([name], &args, Action::Allow)
    }

    /// Adds a filter as it is: instructions of 8 bytes (`struct sock_filter`), 1 to 4096 of them. The strictest answer of
    /// all filters counts.
    pub fn bpf(mut self, program: impl Into<Vec<u8>>) -> Self {
        self.raw.push(program.into());
        self
    }

    fn rule(mut self, names: impl IntoIterator<Item = impl AsRef<str>>, args: &[SyscallArg], action: Action) -> Self {
        let rule = |name: &str| Rule { name: name.to_owned(), args: args.to_vec(), action, lenient: false };
        self.rules.extend(names.into_iter().map(|name| rule(name.as_ref())));
        // Without a default there was no filter: what no rule names is allowed.
        self.default = self.default.or(Some(Action::Allow));
        self
    }

    /// The filters, each as one step.
    pub(crate) fn lower(&self, steps: &mut Vec<Step>) -> Result<()> {
        // The raw ones first: ours may refuse to install another.
        for raw in &self.raw {
            steps.push(Step::Seccomp { program: instructions(raw)?.into() });
        }
        if let Some(default) = self.default {
            let program = bpf::compile(&resolve(&self.rules)?, default);
            steps.push(Step::Seccomp { program: check_length(program)?.into() });
        }
        Ok(())
    }

    /// The default filter as a step. It is compiled once in a process.
    pub(crate) fn lower_default(steps: &mut Vec<Step>) -> Result<()> {
        static DEFAULT: OnceLock<Arc<[BpfInstruction]>> = OnceLock::new();
        if let Some(program) = DEFAULT.get() {
            steps.push(Step::Seccomp { program: program.clone() });
            return Ok(());
        }
        Self::container().lower(steps)?;
        if let Some(Step::Seccomp { program }) = steps.last() {
            let _ = DEFAULT.set(program.clone());
        }
        Ok(())
    }

    /// Whether the caller has allowed by name what makes user namespaces.
    pub(crate) fn allows_namespaces(&self) -> bool {
        let makes = |rule: &Rule| ["clone", "clone3", "unshare"].contains(&rule.name.as_str());
        // The rules of a profile are lenient: they name these for threads and processes.
        self.rules.iter().any(|rule| !rule.lenient && rule.action == Action::Allow && makes(rule))
    }

    /// Whether no keyring can be used.
    pub(crate) fn refuses_keyrings(&self) -> bool {
        ["add_key", "keyctl", "request_key"].into_iter().all(|name| self.refuses(name))
    }

    /// Whether a system call is refused whatever its arguments.
    fn refuses(&self, name: &str) -> bool {
        let refused = |action: &Action| matches!(action, Action::Errno(_) | Action::KillProcess);
        for rule in self.rules.iter().rev().filter(|rule| rule.name == name) {
            match (refused(&rule.action), rule.args.is_empty()) {
                (false, _) => return false,
                (true, true) => return true,
                (true, false) => {}
            }
        }
        self.default.as_ref().is_some_and(refused)
    }

    /// Whether there is any filter.
    pub(crate) fn is_off(&self) -> bool {
        self.default.is_none() && self.raw.is_empty()
    }
}

/// Why this kernel takes no filter, if it takes none.
pub(crate) fn why_none() -> Option<String> {
    let Err(Errno(errno)) = seccomp_has(libc::SECCOMP_RET_ERRNO) else { return None };
    Some(format!("this kernel has no filters of system calls: {}", std::io::Error::from_raw_os_error(errno)))
}

/// What is decided of one system call: the first clause whose conditions all hold.
type Clauses = Vec<Clause>;
type Clause = (Vec<SyscallArg>, Action);

/// Puts the rules together by system call.
fn resolve(rules: &[Rule]) -> Result<BTreeMap<u32, Clauses>> {
    let mut resolved: BTreeMap<u32, Clauses> = BTreeMap::new();
    for rule in rules {
        let Some(number) = table::number(&rule.name) else {
            if rule.lenient {
                continue;
            }
            let cause = format!("there is no system call {:?} on this processor", rule.name);
            return Err(Error::invalid(Layer::Seccomp, "filter", cause));
        };
        check(rule)?;
        let clauses = resolved.entry(number).or_default();
        if rule.args.is_empty() {
            clauses.clear();
        }
        clauses.insert(0, (rule.args.clone(), rule.action));
    }
    Ok(resolved)
}

/// What no filter can be made of, or only one that means something else.
fn check(rule: &Rule) -> Result<()> {
    let invalid = |cause| Err(Error::invalid(Layer::Seccomp, "filter", cause));
    let Rule { name, args, .. } = rule;
    if let Some(arg) = args.iter().find(|arg| arg.index > 5) {
        return invalid(format!("{name} has no argument {}: they are counted from 0 to 5", arg.index));
    }
    match args.iter().find(|arg| arg.value & !arg.mask != 0) {
        Some(arg) => {
            invalid(format!("a rule of {name} never holds: {:#x} has bits outside of {:#x}", arg.value, arg.mask))
        }
        None => Ok(()),
    }
}

fn instructions(raw: &[u8]) -> Result<Vec<BpfInstruction>> {
    if raw.len() % 8 != 0 {
        let cause = format!("a BPF program has instructions of 8 bytes, and this one {} bytes", raw.len());
        return Err(Error::invalid(Layer::Seccomp, "filter", cause));
    }
    let instruction = |bytes: &[u8]| match bytes {
        [a, b, jt, jf, k @ ..] => BpfInstruction {
            code: u16::from_ne_bytes([*a, *b]),
            jt: *jt,
            jf: *jf,
            k: k.try_into().map_or(0, u32::from_ne_bytes),
        },
        _ => BpfInstruction::default(),
    };
    check_length(raw.chunks(8).map(instruction).collect())
}

fn check_length(program: Vec<BpfInstruction>) -> Result<Vec<BpfInstruction>> {
    match program.len() {
        1..=4096 => Ok(program),
        length => {
            let cause = format!("a filter has 1 to 4096 instructions, and this one {length}");
            Err(Error::invalid(Layer::Seccomp, "filter", cause).with_errno(libc::EINVAL))
        }
    }
}

#[cfg(test)]
mod tests {
    mod decisions;
    pub(super) mod machine;
    #[cfg(feature = "oci")]
    mod profiles;
}
