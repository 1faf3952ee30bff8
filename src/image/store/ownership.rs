//! Who the unpacked files belong to.

use std::path::Path;

use crate::error::{Error, ErrorKind, Layer, Result};
use crate::layer::ids::subordinate_ranges;
use crate::sandbox::Sandbox;
use crate::spawn::caller_names;
use crate::{IdMap, Namespaces};

/// Who the files of an image belong to once they are unpacked. Layers are stored once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ownership {
    /// Everything belongs to the caller: the default without privilege. Inside, the files belong to whoever the caller
    /// is there. The owners that the image tells are kept in the extended attribute `user.rootlesscontainers`, as
    /// `umoci` keeps them, where the file system has such attributes.
    Caller,
    /// Files belong to the caller's subordinate ids, and those of the image's root to the caller. Needs newuidmap(1) and
    /// a range in `/etc/subuid` and `/etc/subgid`.
    Subordinate,
    /// Files belong to the very ids that the image tells: the default for root.
    Root,
}

/// What makes files belong to somebody.
#[derive(Clone, Debug)]
pub(super) struct Owners {
    pub(super) ownership: Ownership,
    uid_map: Vec<IdMap>,
    gid_map: Vec<IdMap>,
}

impl Owners {
    pub(super) fn new(asked: Option<Ownership>) -> Result<Self> {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let default = if uid == 0 { Ownership::Root } else { Ownership::Caller };
        let ownership = asked.unwrap_or(default);
        let [uid_map, gid_map] = match ownership {
            Ownership::Caller => [uid, gid].map(|own| vec![IdMap::new(0, own, 1)]),
            Ownership::Subordinate => [subordinate(uid, "/etc/subuid")?, subordinate(gid, "/etc/subgid")?],
            Ownership::Root if uid != 0 => {
                let cause = "only root can give files to the ids that the image tells";
                let hint = "Ownership::Caller needs no privilege, and Ownership::Subordinate keeps the owners apart";
                return Err(Error::invalid(Layer::Image, "ownership", cause).with_hint(hint));
            }
            Ownership::Root => [identity("/proc/self/uid_map")?, identity("/proc/self/gid_map")?],
        };
        Ok(Self { ownership, uid_map, gid_map })
    }

    /// Gives a sandbox these ids, and root among them.
    pub(super) fn map(&self, sandbox: Sandbox) -> Sandbox {
        let sandbox = sandbox.namespaces(Namespaces::default()).user(0, 0);
        let sandbox = self.uid_map.iter().fold(sandbox, |sandbox, line| sandbox.uid_map(*line));
        self.gid_map.iter().fold(sandbox, |sandbox, line| sandbox.gid_map(*line))
    }

    /// The lines of uid_map(5) and of gid_map(5).
    pub(super) fn maps(&self) -> [Vec<IdMap>; 2] {
        [self.uid_map.clone(), self.gid_map.clone()]
    }

    /// Whether files can belong to these ids, or need not.
    pub(super) fn have(&self, (uid, gid): (u32, u32)) -> bool {
        let holds = |map: &[IdMap], id| map.iter().any(|line| line.holds_inside(id));
        self.ownership == Ownership::Caller || holds(&self.uid_map, uid) && holds(&self.gid_map, gid)
    }

    /// What ids of the host's are inside.
    pub(super) fn inside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let inside = |map: &[IdMap], id| {
            let line = map.iter().find(|line| line.holds_outside(id))?;
            Some(id - line.outside + line.inside)
        };
        Some((inside(&self.uid_map, uid)?, inside(&self.gid_map, gid)?))
    }

    /// What tells the layers of one ownership from those of another, in their names.
    pub(super) fn tag(&self) -> &'static str {
        match self.ownership {
            Ownership::Caller => "caller",
            Ownership::Subordinate => "subordinate",
            Ownership::Root => "root",
        }
    }
}

/// The caller, and behind it the ranges that a file gives it.
fn subordinate(own: u32, file: &str) -> Result<Vec<IdMap>> {
    let ranges = subordinate_ranges(&caller_names(), Path::new(file)).unwrap_or_default();
    let mut map = vec![IdMap::new(0, own, 1)];
    let mut inside = 1_u32;
    for (first, count) in ranges {
        map.push(IdMap::new(inside, first, count));
        inside = inside.saturating_add(count);
    }
    match map.len() {
        1 => Err(Error::new(
            Layer::Image,
            ErrorKind::Unsupported,
            "ownership",
            format!("{file} gives the caller no ids"),
        )
        .with_path(file)
        .with_hint(format!("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}", name()))),
        _ => Ok(map),
    }
}

fn name() -> String {
    caller_names().into_iter().next().unwrap_or_else(|| "NAME".to_owned())
}

/// Every id that there is here, as itself.
fn identity(file: &str) -> Result<Vec<IdMap>> {
    let failed =
        |error: std::io::Error| Error::os(Layer::Image, "ownership", error.raw_os_error().unwrap_or(libc::EIO));
    let text = std::fs::read_to_string(file).map_err(|error| failed(error).with_path(file))?;
    let line = |line: &str| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u32>().ok());
        let (inside, _, count) = (fields.next()??, fields.next()?, fields.next()??);
        Some(IdMap::new(inside, inside, count))
    };
    Ok(text.lines().filter_map(line).collect())
}
