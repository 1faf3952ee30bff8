//! User and group ids: the maps of the user namespace, and the ids that the program runs as.

use std::path::Path;

use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::{MapLines, Step};
use crate::sys::in_other_groups;

/// One line of uid_map(5) or gid_map(5): `count` ids from `inside` on are those from `outside` on in the namespace
/// of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdMap {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside, as the caller sees it.
    pub outside: u32,
    /// How many ids: at least 1.
    pub count: u32,
}

impl IdMap {
    /// A line of a map.
    pub const fn new(inside: u32, outside: u32, count: u32) -> Self {
        Self { inside, outside, count }
    }

    pub(crate) fn holds_inside(&self, id: u32) -> bool {
        (self.inside..self.inside.saturating_add(self.count)).contains(&id)
    }

    pub(crate) fn holds_outside(&self, id: u32) -> bool {
        (self.outside..self.outside.saturating_add(self.count)).contains(&id)
    }

    fn line(&self) -> [u32; 3] {
        [self.inside, self.outside, self.count]
    }
}

/// What the policy says of ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    pub(crate) uid_map: Vec<IdMap>,
    pub(crate) gid_map: Vec<IdMap>,
    pub(crate) user: Option<(u32, u32)>,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether it is in other groups than its own.
    pub(crate) in_groups: bool,
}

impl Caller {
    /// The thread that calls, by its effective ids.
    pub(crate) fn current() -> Self {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Self { uid, gid, in_groups: in_other_groups(gid) }
    }

    /// Whether the kernel takes the caller for root. What a root without capabilities can't do, it tells later.
    pub(crate) fn privileged(self) -> bool {
        self.uid == 0
    }

    /// Whether the caller can leave its supplementary groups. Root of a user namespace made without privilege can't:
    /// user_namespaces(7), *setgroups*.
    ///
    /// Where that can't be told, it counts as allowed: then the step that leaves them fails if it is not. The other way
    /// round the program would silently keep them.
    pub(crate) fn sets_groups(self) -> bool {
        let denied = || std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny");
        self.privileged() && !denied()
    }
}

/// What the policy comes to for one caller.
#[derive(Clone, Debug)]
pub(crate) struct Lowered {
    pub(crate) uid_map: Vec<IdMap>,
    pub(crate) gid_map: Vec<IdMap>,
    pub(crate) uid_writer: Writer,
    pub(crate) gid_writer: Writer,
    /// The ids of the program, as it sees them.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether the program's process has to change its ids to get there.
    pub(crate) changes: bool,
    /// The ids that the first process takes on as soon as it is in the namespace, where its own may mean nothing.
    pub(crate) at_entry: Option<(u32, u32)>,
    /// Whether the caller's own ids mean nothing inside, so that whoever builds the root has to change them too.
    pub(crate) caller_unmapped: bool,
}

/// Who can write the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The first process inside: a map of the caller to itself needs no privilege.
    Own,
    /// The caller, being root.
    Root,
    /// newuidmap(1) and newgidmap(1), for ids that /etc/subuid and /etc/subgid give to the caller.
    Helper,
    /// The caller, by a function of its own, or whoever has made the namespace: what the maps come to is not known.
    Others,
}

/// The kernel's bound: `UID_GID_MAP_MAX_EXTENTS`.
const LINES_MAX: usize = 340;

/// Lowers the policy in a user namespace of its own.
pub(crate) fn lower(ids: &Ids, caller: Caller) -> Result<Lowered> {
    let default = |inside, outside| vec![IdMap::new(inside, outside, 1)];
    let (user, group) = ids.user.unzip();
    let or_default = |map: &Vec<IdMap>, inside: Option<u32>, outside| match map.is_empty() {
        true => default(inside.unwrap_or(outside), outside),
        false => map.clone(),
    };
    let uid_map = or_default(&ids.uid_map, user, caller.uid);
    let gid_map = or_default(&ids.gid_map, group, caller.gid);
    check_map("uid_map", &uid_map)?;
    check_map("gid_map", &gid_map)?;
    let uid = runs_as("uid", &uid_map, user, caller.uid)?;
    let gid = runs_as("gid", &gid_map, group, caller.gid)?;
    let own = |map: &[IdMap], id| matches!(map, [IdMap { outside, count: 1, .. }] if *outside == id);
    let writer = |own: bool| match (own, caller.privileged()) {
        (true, _) => Writer::Own,
        (false, true) => Writer::Root,
        (false, false) => Writer::Helper,
    };
    let uid_writer = writer(own(&uid_map, caller.uid));
    let gid_writer = writer(own(&gid_map, caller.gid));
    let changes = inside(&uid_map, caller.uid) != Some(uid) || inside(&gid_map, caller.gid) != Some(gid);
    let caller_unmapped = inside(&uid_map, caller.uid).is_none() || inside(&gid_map, caller.gid).is_none();
    Ok(Lowered { uid_map, gid_map, uid_writer, gid_writer, uid, gid, changes, at_entry: None, caller_unmapped })
}

/// Lowers the policy in the caller's own user namespace: there are no maps, and only root can change ids.
pub(crate) fn lower_without_namespace(ids: &Ids, caller: Caller) -> Result<Lowered> {
    for (name, map) in [("uid_map", &ids.uid_map), ("gid_map", &ids.gid_map)] {
        if !map.is_empty() {
            return Err(Error::invalid(Layer::Ids, name, "an id map needs Namespaces::USER"));
        }
    }
    let (uid, gid) = ids.user.unwrap_or((caller.uid, caller.gid));
    let changes = (uid, gid) != (caller.uid, caller.gid);
    if changes && !caller.privileged() {
        let cause = "other ids than the caller's need Namespaces::USER or root";
        return Err(Error::invalid(Layer::Ids, "user", cause).with_errno(libc::EPERM));
    }
    if uid == u32::MAX || gid == u32::MAX {
        return Err(not_an_id("user"));
    }
    Ok(Lowered {
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        uid_writer: Writer::Own,
        gid_writer: Writer::Own,
        uid,
        gid,
        changes,
        at_entry: None,
        caller_unmapped: false,
    })
}

/// Lowers the policy in a user namespace whose maps are somebody else's matter.
pub(crate) fn lower_with_maps_of_others(ids: &Ids, caller: Caller) -> Result<Lowered> {
    for (name, map) in [("uid_map", &ids.uid_map), ("gid_map", &ids.gid_map)] {
        if !map.is_empty() {
            let cause = "the maps of this user namespace are written by somebody else";
            return Err(Error::invalid(Layer::Ids, name, cause));
        }
    }
    let (uid, gid) = ids.user.unwrap_or((caller.uid, caller.gid));
    if uid == u32::MAX || gid == u32::MAX {
        return Err(not_an_id("user"));
    }
    Ok(Lowered {
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        uid_writer: Writer::Others,
        gid_writer: Writer::Others,
        uid,
        gid,
        changes: false,
        at_entry: ids.user,
        caller_unmapped: false,
    })
}

impl Lowered {
    /// What the first process inside writes about itself.
    pub(crate) fn write_own(&self, steps: &mut Vec<Step>) {
        write_maps(&self.uid_map, &self.gid_map, steps);
    }

    /// What the first process writes in a namespace below one that [`write_identity`] was for: setgroups is denied already.
    pub(crate) fn write_nested(&self, steps: &mut Vec<Step>) {
        let maps = [(c"/proc/self/uid_map", &self.uid_map), (c"/proc/self/gid_map", &self.gid_map)];
        let step =
            |(path, map): (_, &Vec<IdMap>)| Step::WriteProc { layer: Layer::Ids, path, data: text(map).into_bytes() };
        steps.extend(maps.map(step));
    }

    /// What is written from outside.
    pub(crate) fn write_outside(&self) -> Step {
        let lines = |map: &[IdMap], writer| {
            let helper = writer == Writer::Helper;
            MapLines { lines: map.iter().map(IdMap::line).collect(), helper }
        };
        let (uid, gid) = (lines(&self.uid_map, self.uid_writer), lines(&self.gid_map, self.gid_writer));
        Step::Maps { uid, gid }
    }

    /// The program's user, as the caller's namespace has it. With no namespace of its own, it has no other name.
    pub(crate) fn outside_uid(&self) -> u32 {
        let line = self.uid_map.iter().find(|line| line.holds_inside(self.uid));
        line.map_or(self.uid, |line| line.outside + (self.uid - line.inside))
    }

    /// The maps of user and group ids, in the form of the kernel's.
    pub(crate) fn maps(&self) -> [Vec<[u32; 3]>; 2] {
        [&self.uid_map, &self.gid_map].map(|map| map.iter().map(IdMap::line).collect())
    }

    /// Whether it is known which ids are which.
    pub(crate) fn maps_are_known(&self) -> bool {
        self.uid_writer != Writer::Others
    }

    /// Takes on the ids that were asked for, where nobody knows what the caller's own mean.
    pub(crate) fn take_on(&self, steps: &mut Vec<Step>) {
        if let Some((uid, gid)) = self.at_entry {
            steps.extend([Step::SetGid { id: gid }, Step::SetUid { id: uid }]);
        }
    }

    /// Changes to the ids of the program; groups first, while the user may still do that.
    pub(crate) fn change(&self, steps: &mut Vec<Step>) {
        if self.changes {
            steps.extend([Step::SetGid { id: self.gid }, Step::SetUid { id: self.uid }]);
        }
    }
}

/// What the first process writes about itself in a namespace where the caller's ids are what they are outside.
pub(crate) fn write_identity(caller: Caller, steps: &mut Vec<Step>) {
    let line = |id| [IdMap::new(id, id, 1)];
    write_maps(&line(caller.uid), &line(caller.gid), steps);
}

fn write_maps(uid_map: &[IdMap], gid_map: &[IdMap], steps: &mut Vec<Step>) {
    // setgroups before gid_map: without privilege the kernel takes no gid_map otherwise.
    let files = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", text(uid_map)),
        (c"/proc/self/gid_map", text(gid_map)),
    ];
    let step = |(path, data): (_, String)| Step::WriteProc { layer: Layer::Ids, path, data: data.into_bytes() };
    steps.extend(files.map(step));
}

fn text(map: &[IdMap]) -> String {
    let line = |IdMap { inside, outside, count }: &IdMap| format!("{inside} {outside} {count}");
    map.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn inside(map: &[IdMap], outside: u32) -> Option<u32> {
    let line = map.iter().find(|line| line.holds_outside(outside))?;
    Some(line.inside + (outside - line.outside))
}

/// The id of the program: the one asked for, else the caller's own where it is mapped, else the first that is.
fn runs_as(name: &str, map: &[IdMap], asked: Option<u32>, caller: u32) -> Result<u32> {
    match asked {
        Some(id) if map.iter().any(|line| line.holds_inside(id)) => Ok(id),
        Some(id) => {
            let cause = format!("{name} {id} is not mapped: no line of the map has it inside");
            Err(Error::invalid(Layer::Ids, "user", cause).with_errno(libc::EINVAL))
        }
        None => Ok(inside(map, caller).or(map.first().map(|line| line.inside)).unwrap_or(caller)),
    }
}

fn not_an_id(step: &str) -> Error {
    Error::invalid(Layer::Ids, step, format!("{} is not an id", u32::MAX)).with_errno(libc::EINVAL)
}

/// Refuses what the kernel would refuse with a bare EINVAL, or would misread.
fn check_map(name: &str, map: &[IdMap]) -> Result<()> {
    let invalid = |cause: String| Err(Error::invalid(Layer::Ids, name, cause).with_errno(libc::EINVAL));
    if map.len() > LINES_MAX {
        return invalid(format!("{} lines: the kernel takes {LINES_MAX}", map.len()));
    }
    for (index, line) in map.iter().enumerate() {
        let IdMap { inside, outside, count } = line;
        if *count == 0 {
            return invalid(format!("the line \"{inside} {outside} 0\" maps no id"));
        }
        // The last id of a range may be 2^32 - 2: 2^32 - 1 stands for "no id" in system calls.
        if inside.checked_add(*count).is_none() || outside.checked_add(*count).is_none() {
            return invalid(format!("the line \"{inside} {outside} {count}\" goes past the last id, 4294967294"));
        }
        let overlaps = |a: u32, b: u32, other: u32| a < b + other && b < a + count;
        for other in map.iter().take(index) {
            if overlaps(*inside, other.inside, other.count) || overlaps(*outside, other.outside, other.count) {
                return invalid(format!("the lines for {} and {inside} inside overlap", other.inside));
            }
        }
    }
    Ok(())
}

/// The ranges that `file` gives to a user with these names, as first id and count.
///
/// `file` has lines `name-or-id:first:count`. None where nsswitch.conf(5) has another source for them.
pub(crate) fn subordinate_ranges(names: &[String], file: &Path) -> Option<Vec<(u32, u32)>> {
    let elsewhere = std::fs::read_to_string("/etc/nsswitch.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim_start().starts_with("subid:")));
    if elsewhere {
        return None;
    }
    let text = std::fs::read_to_string(file).unwrap_or_default();
    Some(text.lines().filter_map(|line| subordinate_range(line, names)).collect())
}

/// Refuses a map that newuidmap(1) or newgidmap(1) would refuse, and says which line is missing where.
///
/// Where the ranges are not in `file`, the helper decides.
pub(crate) fn check_subordinate(map: &[[u32; 3]], own: u32, names: &[String], file: &Path) -> Result<()> {
    let Some(ranges) = subordinate_ranges(names, file) else { return Ok(()) };
    for [inside, outside, count] in map {
        let given = ranges.iter().any(|(first, length)| {
            first <= outside && u64::from(*outside) + u64::from(*count) <= u64::from(*first) + u64::from(*length)
        });
        let oneself = *outside == own && *count == 1;
        if !given && !oneself {
            let name = names.first().map_or("?", String::as_str);
            let step = format!("map {inside} {outside} {count}");
            let cause = format!("{} gives {name} no such ids", file.display());
            return Err(Error::new(Layer::Ids, ErrorKind::Unsupported, step, cause)
                .with_errno(libc::EPERM)
                .with_path(file)
                .with_hint(format!("as root, add the line `{name}:{outside}:{count}` to {}", file.display())));
        }
    }
    Ok(())
}

/// A line of subuid(5), if it is for one of these names.
fn subordinate_range(line: &str, names: &[String]) -> Option<(u32, u32)> {
    let mut fields = line.trim().split(':');
    let name = fields.next()?;
    let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    names.iter().any(|known| known == name).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Caller = Caller { uid: 1000, gid: 1000, in_groups: false };
    const ROOT: Caller = Caller { uid: 0, gid: 0, in_groups: false };

    fn lowered(uid_map: &[IdMap], user: Option<(u32, u32)>, caller: Caller) -> Result<Lowered> {
        lower(&Ids { uid_map: uid_map.to_vec(), gid_map: uid_map.to_vec(), user }, caller)
    }

    #[test]
    fn the_default_maps_the_caller_to_itself_or_to_the_user_asked_for() {
        let ids = lowered(&[], None, USER).unwrap();
        assert_eq!((ids.uid_map, ids.uid, ids.changes), (vec![IdMap::new(1000, 1000, 1)], 1000, false));
        let ids = lowered(&[], Some((65532, 65532)), USER).unwrap();
        assert_eq!((ids.uid_map, ids.uid, ids.changes), (vec![IdMap::new(65532, 1000, 1)], 65532, false));
        assert_eq!((ids.uid_writer, ids.gid_writer), (Writer::Own, Writer::Own));
    }

    #[test]
    fn the_writer_follows_from_the_map_and_the_caller() {
        let range = [IdMap::new(0, 1000, 1), IdMap::new(1, 100_000, 65_536)];
        assert_eq!(lowered(&range, None, USER).unwrap().uid_writer, Writer::Helper);
        assert_eq!(lowered(&range, None, ROOT).unwrap().gid_writer, Writer::Root);
        let ids = lowered(&[IdMap::new(0, 100_000, 65_536)], None, ROOT).unwrap();
        assert_eq!((ids.uid, ids.changes, ids.caller_unmapped), (0, true, true));
        let ids = lowered(&range, Some((7, 7)), USER).unwrap();
        assert_eq!((ids.changes, ids.caller_unmapped), (true, false));
    }

    #[test]
    fn maps_that_the_kernel_would_refuse_or_misread_are_refused_by_name() {
        let max = u32::MAX;
        for map in [
            vec![IdMap::new(0, 1000, 0)],
            vec![IdMap::new(max, 1000, 1)],
            vec![IdMap::new(0, max, 1)],
            vec![IdMap::new(1, 0, max)],
            vec![IdMap::new(0, 1000, 2), IdMap::new(1, 2000, 1)],
            vec![IdMap::new(0, 1000, 2), IdMap::new(5, 1001, 1)],
            (0..341).map(|id| IdMap::new(id, id, 1)).collect(),
        ] {
            let error = lowered(&map, None, ROOT).unwrap_err();
            assert_eq!((error.layer(), error.kind()), (Layer::Ids, ErrorKind::InvalidPolicy), "{error}");
            assert_eq!(error.step(), "uid_map");
        }
        lowered(&[IdMap::new(0, 0, max)], None, ROOT).unwrap();
        let error = lowered(&[IdMap::new(0, 1000, 1)], Some((5, 5)), USER).unwrap_err();
        assert_eq!(error.to_string(), "ids: user: uid 5 is not mapped: no line of the map has it inside");
    }

    #[test]
    fn a_missing_subordinate_range_is_named() {
        let file = std::env::temp_dir().join(format!("belljar-subuid-{}", std::process::id()));
        std::fs::write(&file, "me:100000:65536\nother:300000:65536\n").unwrap();
        let names = ["me".to_owned(), "1000".to_owned()];
        check_subordinate(&[[0, 1000, 1], [1, 100_000, 65_536]], 1000, &names, &file).unwrap();
        let error = check_subordinate(&[[0, 300_000, 10]], 1000, &names, &file).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(error.path(), Some(file.as_path()));
        assert!(error.hint().unwrap().contains("`me:300000:10`"), "{error:?}");
    }
}
