//! Who is compared. Each gets as near to belljar's default policy as it can; README.md says what each leaves out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use belljar::Pool;
use ferroday_cage::{Cage, FsAccess, Network, SeccompPolicy};
use hakoniwa::landlock::{CompatMode, FsAccess as Access, Resource, Ruleset};
use hakoniwa::{Container, Namespace, Runctl};

use crate::common::contender::{self, Contender, ended, host_policy, status};
use crate::common::{Bench, Result};
use crate::root::Root;

/// The path of the program inside.
const INSIDE: &str = "/noop";

/// A contender, with what has to be done between its runs.
pub(crate) struct Peer {
    contender: Contender,
    pool: Option<Arc<Pool>>,
}

impl Peer {
    pub(crate) fn name(&self) -> &'static str {
        self.contender.name
    }

    pub(crate) fn run(&self) -> Result {
        self.contender.run()
    }

    pub(crate) fn timed(&self) -> Result<Duration> {
        let start = Instant::now();
        self.run()?;
        Ok(start.elapsed())
    }

    /// What a pool does while nobody waits for it: it builds the sandboxes that were used up.
    pub(crate) fn settle(&self) -> Result {
        Ok(self.pool.iter().try_for_each(|pool| pool.refill())?)
    }

    pub(crate) fn contender(&self) -> &Contender {
        &self.contender
    }
}

impl From<Contender> for Peer {
    fn from(contender: Contender) -> Self {
        Self { contender, pool: None }
    }
}

/// Makes a contender, and tries whether it works here.
pub(crate) type Make = fn(&Bench) -> Result<Peer>;

/// The names, as the tables have them, and how each is made.
pub(crate) const PEERS: [(&str, Make); 11] = [
    ("plain spawn", |bench| Ok(contender::plain(bench)?.into())),
    ("plain fork", |bench| Ok(contender::fork(bench)?.into())),
    (POOL, |bench| pool(bench, 2)),
    (PREPARED, prepared),
    (ONE_SHOT, one_shot),
    ("unshare", |bench| Ok(contender::unshare(bench)?.into())),
    ("hakoniwa", hakoniwa),
    ("ferroday-cage", ferroday_cage),
    ("bwrap", |bench| Ok(contender::bwrap(bench)?.into())),
    ("crun", |bench| oci(bench, "crun", &["--cgroup-manager=disabled"])),
    ("runc", |bench| oci(bench, "runc", &[])),
];

pub(crate) const POOL: &str = "belljar pool";
pub(crate) const PREPARED: &str = "belljar prepared";
pub(crate) const ONE_SHOT: &str = "belljar one-shot";

/// Those of these names that work here. The others are printed, with the reason.
pub(crate) fn present(bench: &Bench, names: &[&str]) -> Result<Vec<Peer>> {
    let chosen = PEERS.iter().filter(|(name, _)| names.contains(name));
    let all: Vec<Peer> = chosen.map(|(_, make)| make(bench)).collect::<Result<_>>()?;
    Ok(working(all))
}

/// Those that work here.
pub(crate) fn working(all: Vec<Peer>) -> Vec<Peer> {
    let works = |peer: &Peer| match peer.contender().missing() {
        Some(reason) => {
            println!("missing: {}: {reason}", peer.name());
            false
        }
        None => true,
    };
    all.into_iter().filter(works).collect()
}

/// `Sandbox::command`: everything anew at each start.
pub(crate) fn one_shot(bench: &Bench) -> Result<Peer> {
    let policy = host_policy(bench)?;
    Ok(Contender::new(ONE_SHOT, move || ended(&mut policy.command(INSIDE))).into())
}

/// `Prepared::command`: what can be made once is made once.
fn prepared(bench: &Bench) -> Result<Peer> {
    let prepared = host_policy(bench)?.prepare()?;
    Ok(Contender::new(PREPARED, move || ended(&mut prepared.command(INSIDE))).into())
}

/// `Pool::command`, filled between the runs.
fn pool(bench: &Bench, size: usize) -> Result<Peer> {
    from_pool(host_policy(bench)?.prepare()?.pool_by_hand(size)?)
}

/// `Pool::command`, filled while it is used, by the pool's own thread.
pub(crate) fn self_filling_pool(bench: &Bench, size: usize) -> Result<Peer> {
    from_pool(host_policy(bench)?.prepare()?.pool(size)?)
}

fn from_pool(pool: Pool) -> Result<Peer> {
    let pool = Arc::new(pool);
    let user = pool.clone();
    let contender = Contender::new(POOL, move || ended(&mut user.command(INSIDE)));
    let peer = Peer { contender, pool: Some(pool) };
    peer.settle()?;
    Ok(peer)
}

/// The crate hakoniwa, with Landlock; its filter needs a C library and is left out.
fn hakoniwa(bench: &Bench) -> Result<Peer> {
    let mut container = Container::new();
    for namespace in [Namespace::Cgroup, Namespace::Ipc, Namespace::Network, Namespace::Uts] {
        container.unshare(namespace);
    }
    let root = Root::new(bench)?;
    for bind in &root.binds {
        container.bindmount_ro(&bind.from.to_string_lossy(), &bind.to.to_string_lossy());
    }
    for link in &root.links {
        container.symlink(&link.target.to_string_lossy(), &link.link.to_string_lossy());
    }
    container.devfsmount("/dev").tmpfsmount("/tmp").runctl(Runctl::MountFallback);
    let mut rules = Ruleset::default();
    for resource in [Resource::FS, Resource::NET_TCP_BIND, Resource::NET_TCP_CONNECT] {
        rules.restrict(resource, CompatMode::Enforce);
    }
    rules.allow_path("/", Access::R | Access::X);
    for path in ["/dev", "/tmp"] {
        rules.allow_path(path, Access::R | Access::W);
    }
    container.landlock_ruleset(rules);
    let run = move || match container.command(INSIDE).status()? {
        status if status.success() => Ok(()),
        status => Err(format!("{status:?}").into()),
    };
    Ok(Contender::new("hakoniwa", run).into())
}

/// The crate ferroday-cage, with Landlock, its filter and no capabilities.
fn ferroday_cage(bench: &Bench) -> Result<Peer> {
    let (root, dir) = (Root::new(bench)?, bench.path("cage")?);
    root.skeleton(&dir)?;
    let mut builder = Cage::builder().rootfs(&dir).command(INSIDE).network(Network::None);
    for bind in &root.binds {
        builder = builder.bind_ro(&bind.from, &bind.to);
    }
    builder = builder.landlock_fs(FsAccess::READ | FsAccess::EXECUTE, "/");
    for path in ["/dev", "/tmp"] {
        builder = builder.landlock_fs(FsAccess::READ | FsAccess::WRITE, path);
    }
    let cage = builder.seccomp(SeccompPolicy::Curated).drop_all_capabilities().build()?;
    let run = move || match cage.run()? {
        status if status.success() => Ok(()),
        status => Err(format!("{status:?}").into()),
    };
    Ok(Contender::new("ferroday-cage", run).into())
}

/// A runtime of the Open Container Initiative, with a bundle of the same mounts.
fn oci(bench: &Bench, name: &'static str, options: &'static [&str]) -> Result<Peer> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let (bundle, state) = (bench.path(name)?, bench.path(&format!("{name}-state"))?);
    write_bundle(bench, &bundle)?;
    let run = move || {
        let container = format!("belljar-peers-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let mut command = Command::new(name);
        command.args(options).arg("--root").arg(&state).args(["run", "--bundle"]).arg(&bundle).arg(container);
        status(&mut command)
    };
    Ok(Contender::new(name, run).into())
}

fn write_bundle(bench: &Bench, bundle: &Path) -> Result {
    let root = Root::new(bench)?;
    root.skeleton(&bundle.join("rootfs"))?;
    let binds = root.binds.iter().map(|bind| {
        let (from, to) = (bind.from.to_string_lossy(), bind.to.to_string_lossy());
        format!(r#"{{"destination":{to:?},"type":"none","source":{from:?},"options":["rbind","ro","nosuid","nodev"]}}"#)
    });
    // The directory of a process belongs to the process's user.
    let caller = fs::metadata("/proc/self")?;
    let config = include_str!("config.json")
        .replace("@PROGRAM@", INSIDE)
        .replace("@UID@", &caller.uid().to_string())
        .replace("@GID@", &caller.gid().to_string())
        .replace("\"@BINDS@\"", &binds.collect::<Vec<_>>().join(",\n        "));
    Ok(fs::write(bundle.join("config.json"), config)?)
}
