//! What the starts from one template have in common.

use std::any::Any;
use std::fs::File;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Step;

/// Namespaces that starts go on from: held by descriptors, so that no process has to stay for them.
#[derive(Debug)]
pub(crate) struct Template {
    /// The owner of the other namespaces: nothing inside a sandbox has a capability there.
    pub(crate) user: OwnedFd,
    /// The root, but for what each start has for itself.
    pub(crate) mount: OwnedFd,
    /// What each start takes: a directory that no path in there leads to.
    pub(crate) kept: OwnedFd,
    /// The host's /proc.
    pub(crate) proc: OwnedFd,
    /// Empty network namespaces; none where each start makes its own.
    pub(crate) networks: Option<Networks>,
    /// Every step that makes the root, the template's own and those of each start, in the order of the policy.
    pub(crate) content: Vec<Step>,
    /// What each start does for itself.
    pub(crate) private: Vec<Step>,
    /// Of the mounts that can be written, in their order: which file is mounted where it is the template's own.
    pub(crate) writable: Vec<Option<(u64, u64)>>,
    /// What has to stay: the layers of an image in their store.
    pub(crate) keeps: Option<Arc<dyn Any + Send + Sync>>,
    /// The user and the group that have made it, as whom alone it can be entered.
    pub(crate) caller: (u32, u32),
}

/// Empty network namespaces that no process is in.
///
/// To make one takes longer than all else of a start. A sandbox has one for itself alone, and can't change it, since it
/// is the template's; so when the sandbox has ended, another one gets it, if nothing there tells of the last one. To look
/// takes time, which there is while the host waits for the end of the next sandbox: so that one has another.
#[derive(Debug)]
pub(crate) struct Networks {
    /// The process that has made them: a fork of it would use the same ones at the same time.
    owner: u32,
    stock: Mutex<Stock>,
}

#[derive(Debug, Default)]
struct Stock {
    free: Vec<NetworkNamespace>,
    /// Not looked at yet.
    used: Vec<NetworkNamespace>,
}

/// A network namespace, and what can be read of its use.
#[derive(Debug)]
pub(crate) struct NetworkNamespace {
    namespace: OwnedFd,
    /// Files of /proc/net, with what they held at first; of [`SOCKETS`], only its line.
    files: Vec<(File, Vec<u8>)>,
}

/// How many are kept: each takes some 200 KiB of memory.
const KEPT: usize = 64;

impl Networks {
    pub(crate) fn new() -> Self {
        Self { owner: std::process::id(), stock: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Stock> {
        // Nothing panics while it is locked.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out which of the used ones are as new, and gives up the others.
    fn look(&self) {
        let mut used = mem::take(&mut self.lock().used);
        used.retain(NetworkNamespace::is_as_new);
        self.lock().free.append(&mut used);
    }

    fn take(&self) -> Option<NetworkNamespace> {
        let mut stock = self.lock();
        // A single one is looked at when there is time.
        if stock.free.is_empty() && stock.used.len() > 1 {
            drop(stock);
            self.look();
            stock = self.lock();
        }
        stock.free.pop()
    }
}

impl NetworkNamespace {
    pub(crate) fn new(namespace: OwnedFd, files: Vec<OwnedFd>) -> Self {
        let read = |file: OwnedFd| {
            let file = File::from(file);
            let (mut buffer, mut held) = ([0; PART], Vec::new());
            while let Ok(length @ 1..) = file.read_at(&mut buffer, held.len() as u64) {
                held.extend_from_slice(buffer.get(..length).unwrap_or_default());
            }
            if held.starts_with(SOCKETS) {
                held.truncate(held.iter().position(|byte| *byte == b'\n').map_or(held.len(), |end| end + 1));
            }
            (file, held)
        };
        Self { namespace, files: files.into_iter().map(read).collect() }
    }

    /// Whether nothing tells that somebody has used it: its counters are at 0, and nobody outside has a socket of it.
    fn is_as_new(&self) -> bool {
        let mut counts_sockets = false;
        let are_same = self.files.iter().all(|(file, held)| match held.starts_with(SOCKETS) {
            true => {
                counts_sockets = true;
                begins_with(file, held)
            }
            false => holds(file, held),
        });
        are_same && counts_sockets
    }
}

/// What /proc/net/sockstat begins with: the line that counts the sockets of this network namespace, of every kind (Linux
/// 4.17). What follows it is partly about all network namespaces.
const SOCKETS: &[u8] = b"sockets: ";

fn begins_with(file: &File, held: &[u8]) -> bool {
    let mut buffer = [0; PART];
    let read = buffer.get_mut(..held.len()).and_then(|part| file.read_at(part, 0).ok());
    read == Some(held.len()) && buffer.starts_with(held)
}

fn holds(file: &File, held: &[u8]) -> bool {
    let (mut buffer, mut rest) = ([0; PART], held);
    loop {
        let at = (held.len() - rest.len()) as u64;
        match file.read_at(&mut buffer, at) {
            Ok(0) => return rest.is_empty(),
            Ok(length) => match rest.split_at_checked(length) {
                Some((part, next)) if Some(part) == buffer.get(..length) => rest = next,
                _ => return false,
            },
            Err(_) => return false,
        }
    }
}

/// More than most of these files hold.
const PART: usize = 8192;

impl Template {
    /// The network namespaces, if this process may use them.
    pub(crate) fn networks(&self) -> Option<&Networks> {
        self.networks.as_ref().filter(|networks| networks.owner == std::process::id())
    }

    /// A network namespace that is free.
    pub(crate) fn free_network(self: &Arc<Self>) -> Option<Lease> {
        let network = self.networks()?.take()?;
        Some(self.lease(network))
    }

    /// Has a new network namespace used, and then kept.
    pub(crate) fn lease(self: &Arc<Self>, network: NetworkNamespace) -> Lease {
        Lease { template: self.clone(), network }
    }
}

/// A network namespace that one sandbox has for itself. Dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Lease {
    template: Arc<Template>,
    network: NetworkNamespace,
}

impl Lease {
    /// Keeps it for another sandbox: the one that had it has ended.
    pub(crate) fn give_back(self) {
        let Some(networks) = self.template.networks() else { return };
        let mut stock = networks.lock();
        if stock.free.len() + stock.used.len() < KEPT {
            stock.used.push(self.network);
        }
    }

    /// Looks at those that others have given back, for whoever has to wait anyway.
    pub(crate) fn look_at_others(&self) {
        if let Some(networks) = self.template.networks() {
            networks.look();
        }
    }
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.network.namespace.as_fd()
    }
}

impl Template {
    /// What a start enters: the user and the mount namespace, what is kept, and the network namespace that it has.
    pub(crate) fn numbers(&self, network: Option<&Lease>) -> [RawFd; 4] {
        let network = network.map_or(-1, |lease| lease.as_fd().as_raw_fd());
        [self.user.as_raw_fd(), self.mount.as_raw_fd(), self.kept.as_raw_fd(), network]
    }
}
