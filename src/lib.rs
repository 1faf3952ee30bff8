//! Runs a subprocess inside a container-grade sandbox, in-process and without root.

mod child;
mod command;
mod compile;
mod error;
pub mod host;
mod layer;
mod outcome;
mod plan;
mod postfork;
mod rootfs;
mod sandbox;
mod spawn;
mod sys;

pub use child::{Child, Output};
pub use command::Command;
pub use error::{Error, ErrorKind, Layer};
pub use layer::fds::Stdio;
pub use layer::ids::IdMap;
pub use layer::mount::Tmpfs;
pub use layer::namespaces::Namespaces;
pub use layer::network::Network;
pub use outcome::{Cause, Outcome, Usage};
pub use plan::Plan;
pub use rootfs::Rootfs;
pub use sandbox::Sandbox;
