//! The network: none, a loopback of the sandbox's own, or the host's.

use crate::error::{Error, Layer, Result};
use crate::plan::Step;

/// What network the program has.
///
/// Without [`NET`](crate::Namespaces::NET) among the namespaces it has the host's, and with it one of the others: a
/// choice that the namespaces contradict is refused when a command is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Network {
    /// A network namespace with no interface up: nothing can be sent, not even to the program itself. Abstract
    /// sockets of the host are out of reach too. The default.
    #[default]
    None,
    /// A network namespace with a loopback interface of its own: 127.0.0.1 and ::1 are the sandbox itself.
    Loopback,
    /// The host's network, services on its loopback interface included: no isolation. Of its abstract sockets, Landlock
    /// keeps the program apart, from Linux 6.12 on.
    Host,
}

/// The steps inside a network namespace; `private` tells whether the sandbox has one.
pub(crate) fn lower(network: Network, private: bool, steps: &mut Vec<Step>) -> Result<()> {
    match (network, private) {
        (Network::Host, false) | (Network::None, true) => Ok(()),
        (Network::Loopback, true) => {
            steps.push(Step::LoopbackUp);
            Ok(())
        }
        (Network::Host, true) => {
            let cause = "Network::Host contradicts Namespaces::NET, a network namespace of the sandbox's own";
            Err(Error::invalid(Layer::Network, "network", cause)
                .with_hint("leave it out: `.namespaces(Namespaces::default() - Namespaces::NET)`"))
        }
        (Network::None | Network::Loopback, false) => {
            let cause = format!("Network::{network:?} needs Namespaces::NET");
            Err(Error::invalid(Layer::Network, "network", cause))
        }
    }
}
