//! What is wrong with a stream, before it is known at which entry.

use std::io;

use crate::error::{Error, ErrorKind, Layer};
use crate::plan::Escaped;

/// What a look at a part of a stream comes to.
pub(super) type Checked<T> = Result<T, Fault>;

#[derive(Debug)]
pub(super) struct Fault {
    cause: String,
    errno: Option<i32>,
    hint: Option<&'static str>,
}

/// How much of a name is told: it may be hostile, and long.
const TOLD: usize = 200;

impl Fault {
    pub(super) fn new(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), errno: None, hint: None }
    }

    pub(super) fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The same, about a part of an entry.
    pub(super) fn of(mut self, part: &str) -> Self {
        self.cause = format!("{part}: {}", self.cause);
        self
    }

    /// The error, at the entry `index`, counted from 1 on, that is called `name`.
    pub(super) fn at(self, index: u64, name: &[u8]) -> Error {
        let more = if name.len() > TOLD { "..." } else { "" };
        let name = Escaped(&name[..name.len().min(TOLD)]);
        self.told(format!("entry {index} \"{name}{more}\""))
    }

    /// The error, at a place without a name.
    pub(super) fn told(self, step: String) -> Error {
        let error = match self.errno {
            Some(errno) => Error::os(Layer::Image, step, errno),
            None => Error::new(Layer::Image, ErrorKind::InvalidImage, step, self.cause),
        };
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// A decoder's error is about its input, unless the kernel gave it: then it is about reading it.
impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error(), ..Self::new(error.to_string()) }
    }
}

/// Ends the function with a fault.
macro_rules! refuse {
    ($($words:tt)+) => {
        return Err(crate::image::layer::fault::Fault::new(format!($($words)+)))
    };
}
pub(super) use refuse;
