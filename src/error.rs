//! One opaque error that says what failed, where, and what helps.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What a call of this crate comes to.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a sandbox could not be started, or its end not be told.
///
/// Printed, it reads `layer: step: cause`, for example
/// `mount: bind /a -> /b: No such file or directory (os error 2)`; the parts are to be had one by one. It converts
/// into [`io::Error`] with the matching [`io::ErrorKind`].
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug, thiserror::Error)]
#[error("{layer}: {step}: {cause}")]
struct Inner {
    layer: Layer,
    step: String,
    kind: ErrorKind,
    cause: Cause,
    path: Option<PathBuf>,
    hint: Option<String>,
}

#[derive(Debug)]
enum Cause {
    Os(i32),
    /// A sentence of ours, with the error number that the kernel would have given, if it is known.
    Said(String, Option<i32>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Os(errno) => io::Error::from_raw_os_error(*errno).fmt(f),
            Cause::Said(sentence, _) => f.write_str(sentence),
        }
    }
}

/// What sort of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The policy or the command contradicts itself, or can't be carried out anywhere. Nothing was started.
    InvalidPolicy,
    /// This host lacks what the policy asks for by name.
    Unsupported,
    /// The kernel refused a step; [`Error::raw_os_error`] says how.
    Os,
    /// An image, a layer or a program breaks its format, a digest or a limit.
    InvalidImage,
}

/// A layer of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layer {
    /// Making and entering namespaces, and what is set in them: the host name.
    Namespaces,
    /// User and group ids.
    Ids,
    /// The root file system and everything mounted in it.
    Mount,
    /// Network interfaces.
    Network,
    /// The descriptors that the program gets.
    Fds,
    /// Resource limits.
    Limits,
    /// Capabilities, securebits and no_new_privs.
    Capabilities,
    /// What else a process inherits: session, signals, umask, priorities, working directory.
    Process,
    /// Landlock's rules.
    Landlock,
    /// The filter of system calls.
    Seccomp,
    /// Executing the program.
    Exec,
    /// Reading, unpacking and storing an image.
    Image,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Layer::Namespaces => "namespaces",
            Layer::Ids => "ids",
            Layer::Mount => "mount",
            Layer::Network => "network",
            Layer::Fds => "fds",
            Layer::Limits => "limits",
            Layer::Capabilities => "capabilities",
            Layer::Process => "process",
            Layer::Landlock => "landlock",
            Layer::Seccomp => "seccomp",
            Layer::Exec => "exec",
            Layer::Image => "image",
        })
    }
}

impl Error {
    /// The layer that failed.
    pub fn layer(&self) -> Layer {
        self.0.layer
    }

    /// The step that failed, in the words of [`Command::plan`](crate::Command::plan).
    pub fn step(&self) -> &str {
        &self.0.step
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The error number, if the kernel gave one or is known to give one for this input.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self.0.cause {
            Cause::Os(errno) => Some(errno),
            Cause::Said(_, errno) => errno,
        }
    }

    /// The path that the failure is about: of the host for a source, inside the sandbox otherwise.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// What helps, where that is known: a sentence or two for a person.
    pub fn hint(&self) -> Option<String> {
        self.0.hint.clone()
    }

    pub(crate) fn new(layer: Layer, kind: ErrorKind, step: impl Into<String>, cause: impl Into<String>) -> Self {
        let cause = Cause::Said(cause.into(), None);
        Self(Box::new(Inner { layer, step: step.into(), kind, cause, path: None, hint: None }))
    }

    pub(crate) fn invalid(layer: Layer, step: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::new(layer, ErrorKind::InvalidPolicy, step, cause)
    }

    pub(crate) fn os(layer: Layer, step: impl Into<String>, errno: i32) -> Self {
        let cause = Cause::Os(errno);
        Self(Box::new(Inner { layer, step: step.into(), kind: ErrorKind::Os, cause, path: None, hint: None }))
    }

    /// Names the step that this one is part of.
    #[cfg(feature = "image")]
    pub(crate) fn within(mut self, step: &str) -> Self {
        self.0.step = format!("{step}: {}", self.0.step);
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub(crate) fn with_errno(mut self, errno: i32) -> Self {
        if let Cause::Said(_, known) = &mut self.0.cause {
            *known = Some(errno);
        }
        self
    }

    pub(crate) fn with_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.path = Some(path.into());
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match (error.raw_os_error(), error.kind()) {
            (_, ErrorKind::InvalidPolicy) => io::ErrorKind::InvalidInput,
            (_, ErrorKind::InvalidImage) => io::ErrorKind::InvalidData,
            (Some(errno), _) => io::Error::from_raw_os_error(errno).kind(),
            (None, ErrorKind::Unsupported) => io::ErrorKind::Unsupported,
            (None, ErrorKind::Os) => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_layer_step_cause_and_converts() {
        let error = Error::os(Layer::Mount, "bind /a -> /b", libc::ENOENT).with_path("/a");
        assert_eq!(error.to_string(), "mount: bind /a -> /b: No such file or directory (os error 2)");
        assert_eq!(error.path(), Some(Path::new("/a")));
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
        let error = Error::invalid(Layer::Ids, "uid_map", "count is 0");
        assert_eq!(error.to_string(), "ids: uid_map: count is 0");
        assert_eq!(error.raw_os_error(), None);
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    }
}
