//! What a failed start is told as: the parent owns the words.

use crate::error::{Error, ErrorKind, Layer};
use crate::host::{Refused, why_denied};
use crate::layer::namespaces::Namespaces;
use crate::plan::{Escaped, Fault, Operand, Plan, Step, Upper, hint, interpreter, os};
use crate::postfork::{Report, Reports};
use crate::sys::Ended;

/// A step that the child reports as failed.
pub(super) fn step(plan: &Plan, report: &Report, reports: &Reports, fault: Fault) -> Error {
    let Some(step) = plan.steps.get(report.step()) else {
        return Error::os(Layer::Process, "set up", fault.errno);
    };
    let step = step.told();
    if let Step::Exec { candidates, .. } = step {
        return exec(step, candidates, reports, fault);
    }
    let mut error = Error::os(step.layer(), step.to_string(), fault.errno);
    if let Some(path) = step.path(fault.operand) {
        error = error.with_path(path);
    }
    // A user namespace that is worth nothing explains more than the step that showed it.
    let forbidden = match fault.operand {
        Operand::Call | Operand::Target => forbidden(plan, step, fault.errno),
        Operand::Source => None,
    };
    if lacks_overlay(step, fault) {
        error = error.with_kind(ErrorKind::Unsupported);
    }
    match (forbidden, hint(step, fault)) {
        (Some(why), _) => error.with_kind(ErrorKind::Unsupported).with_hint(why),
        (None, Some(hint)) => error.with_hint(hint),
        (None, None) => error,
    }
}

/// Whether the kernel or a file system can't do what an overlay takes.
fn lacks_overlay(step: &Step, fault: Fault) -> bool {
    let Step::RootOverlay { upper, .. } = step else { return false };
    match fault.errno {
        libc::EPERM | libc::ENODEV => fault.operand == Operand::Call,
        libc::EOPNOTSUPP => matches!(upper, Upper::Tmpfs { .. } | Upper::Kept { .. }),
        _ => false,
    }
}

pub(super) const MEMORY_TOO_SMALL: &str = "the limit of memory is too low for the program to be started";

/// A process that could not be cloned.
pub(super) fn failed(plan: &Plan, clone: usize, errno: i32) -> Error {
    match plan.steps.get(clone) {
        None => Error::os(Layer::Namespaces, "clone", errno),
        Some(step) => {
            let error = Error::os(step.layer(), step.to_string(), errno);
            match forbidden(plan, step, errno) {
                Some(why) => error.with_kind(ErrorKind::Unsupported).with_hint(why),
                None => error,
            }
        }
    }
}

/// A process that has ended in the middle of a step, which no step can do by itself.
pub(super) fn died(plan: &Plan, step: usize, ended: Option<Ended>) -> Error {
    let words = plan.steps.get(step).map_or("set up".to_owned(), Step::to_string);
    let layer = plan.steps.get(step).map_or(Layer::Process, Step::layer);
    let cause = match ended {
        Some(ended) => format!("a signal ended the process: {}", ended.status),
        None => "the process has ended in the middle of it".to_owned(),
    };
    Error::new(layer, ErrorKind::Os, words, cause)
}

/// Why the host forbids namespaces, if that is what the error looks like.
fn forbidden(plan: &Plan, step: &Step, errno: i32) -> Option<String> {
    let made = |step: &Step| match step {
        Step::Clone { namespaces, .. } | Step::Unshare { namespaces } => {
            Namespaces::from_bits_truncate(*namespaces as u32)
        }
        _ => Namespaces::empty(),
    };
    let refused = match step {
        Step::Clone { namespaces: 1.., .. } | Step::Unshare { .. } => Refused::New(made(step)),
        // What the capabilities of a new user namespace allow everybody.
        Step::WriteProc { layer: Layer::Ids, .. }
        | Step::LoopbackUp
        | Step::Hostname { .. }
        | Step::Domainname
        | Step::Workspace
            if plan.steps.iter().any(|step| made(step).contains(Namespaces::USER)) =>
        {
            Refused::Inside
        }
        // Older kernels ask AppArmor about mount(2) and pivot_root(2), and not about what is made and moved by descriptors.
        Step::Private | Step::Workspace | Step::Mask { .. } | Step::Pivot => Refused::Mount,
        _ => return None,
    };
    why_denied(errno, refused)
}

/// A program that could not be executed.
fn exec(step: &Step, candidates: &[std::ffi::CString], reports: &Reports, fault: Fault) -> Error {
    let (index, head) = reports.head.candidate();
    let path = candidates.get(index).map(|path| os(path));
    let error = Error::os(Layer::Exec, step.to_string(), fault.errno);
    let error = match path.filter(|_| !head.is_empty() || fault.errno != libc::ENOENT) {
        Some(path) => error.with_path(path),
        None => match step.path(Operand::Call) {
            Some(path) => error.with_path(path),
            None => error,
        },
    };
    match exec_hint(fault.errno, &head) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

pub(crate) fn exec_hint(errno: i32, head: &[u8]) -> Option<String> {
    // The file may be hostile: its words are not for the terminal as they are.
    let hint = match (errno, head.first(), interpreter(head).map(Escaped)) {
        (libc::ENOENT, Some(_), Some(needed)) if head.starts_with(b"#!") => {
            format!("the interpreter {needed} of the script, or what that needs to start, is missing inside")
        }
        (libc::ENOENT, Some(_), Some(needed)) => format!("the ELF loader {needed} is missing inside"),
        (libc::ENOENT, Some(_), None) => "the program is there, but its interpreter is missing inside".to_owned(),
        (libc::ENOENT, None, _) => "the program is looked for inside the sandbox: there is no such file".to_owned(),
        (libc::EACCES, ..) => {
            "it, or the interpreter that it names, is no file with execute permission, or lies on a file system without"
                .to_owned()
        }
        (libc::ENOEXEC, ..) => "it is neither a program for this processor nor a script with a #! line".to_owned(),
        (libc::ELOOP, ..) => "it leads over too many links or interpreters".to_owned(),
        (libc::E2BIG, ..) => "arguments and environment are too long".to_owned(),
        _ => return None,
    };
    Some(hint)
}
