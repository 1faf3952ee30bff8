//! The layers: for each, the caller's half (values) and the parent's half (lowering them to steps).
//!
//! A layer knows the plan, and no other layer: [`compile`](crate::compile) puts them in order.

pub(crate) mod capabilities;
pub(crate) mod exec;
pub(crate) mod fds;
pub(crate) mod ids;
pub(crate) mod inherit;
pub(crate) mod landlock;
pub(crate) mod limits;
pub(crate) mod mount;
pub(crate) mod namespaces;
pub(crate) mod network;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod terminal;
