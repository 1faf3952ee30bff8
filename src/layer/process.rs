//! What a process inherits besides descriptors, limits and ids: a program starts with the same values whatever the
//! host has set.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Layer, Result};
use crate::plan::Step;

/// The out-of-memory killer takes the sandbox before the host process: half of proc(5)'s scale.
const OOM_SCORE: &[u8] = b"500";

/// The kernel's own default, `init_task.timer_slack_ns`.
const TIMER_SLACK: u64 = 50_000;

/// A session of its own: before the descriptors, so that a terminal among them is not a controlling one.
pub(crate) fn lower_session(steps: &mut Vec<Step>) {
    steps.push(Step::Setsid);
}

/// A session keyring of its own, for programs that may use keyrings.
///
/// Not for the others: each is a key, which the kernel frees a while after the end of the program, and a user who is not
/// root has no more than 200 of them, those of its other programs included (keyrings(7)).
pub(crate) fn lower_keyring(steps: &mut Vec<Step>) {
    steps.push(Step::SessionKeyring);
}

/// What the program inherits from whoever clones it, and can be set there.
pub(crate) fn lower_priorities(steps: &mut Vec<Step>) {
    steps.extend([
        Step::Nice,
        Step::IoPriority,
        Step::Affinity,
        Step::Personality,
        Step::TimerSlack { nanoseconds: TIMER_SLACK },
    ]);
}

/// What the program's process sets by itself, if it can.
pub(crate) fn lower_oom_score(steps: &mut Vec<Step>) {
    steps.push(Step::OomScore { data: OOM_SCORE });
}

/// What the program's process sets by itself.
pub(crate) fn lower_state(mask: u32, steps: &mut Vec<Step>) {
    steps.push(Step::Umask { mask });
}

/// The working directory, in kernel form.
pub(crate) fn directory(directory: Option<&Path>) -> Result<CString> {
    let directory = directory.unwrap_or(Path::new("/"));
    let invalid = |cause| Error::invalid(Layer::Process, "chdir", cause).with_path(directory);
    if !directory.is_absolute() {
        return Err(invalid("the working directory is a path inside, and must be absolute"));
    }
    CString::new(directory.as_os_str().as_bytes()).map_err(|_| invalid("the working directory has a zero byte"))
}

/// After the last change of credentials, which would clear it.
pub(crate) fn lower_end_with_thread(steps: &mut Vec<Step>) {
    steps.push(Step::EndWithThread);
}

/// Holds the program back, in its namespaces and on its root, but with nothing dropped yet.
pub(crate) fn lower_hold(steps: &mut Vec<Step>) {
    steps.push(Step::Hold { socket: None });
}

/// Goes there, or to the first that is there: after the capabilities are gone, so that the program could go there itself.
pub(crate) fn lower_directories(mut paths: Vec<CString>, steps: &mut Vec<Step>) {
    steps.push(match (paths.pop(), paths.is_empty()) {
        (Some(path), true) => Step::Chdir { path },
        (last, _) => {
            paths.extend(last);
            Step::ChdirFirst { paths }
        }
    });
}

/// Signals: last before the exec, since an unblocked signal may end the child at once.
pub(crate) fn lower_signals(steps: &mut Vec<Step>) {
    steps.push(Step::Signals);
}

/// The same, but for those that are ignored.
pub(crate) fn lower_caught_signals(steps: &mut Vec<Step>) {
    steps.push(Step::CaughtSignals);
}
