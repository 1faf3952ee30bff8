//! User and group ids, as the program and as the host see them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use belljar::{ErrorKind, IdMap, Layer, Sandbox};

use crate::again::{again, is_again, works};
use crate::harness::{host, is_root, real, sh, temp_dir, token};
use crate::probe::{inside, waiting};
use crate::skip;

pub(crate) fn own_ids() -> (u32, u32) {
    // SAFETY: No arguments, and it never fails.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: As above.
    (uid, unsafe { libc::getegid() })
}

/// The ids of a program as the host has them: the first of `Uid:` and `Gid:`, and all of `Groups:`.
fn seen_by_host(sandbox: &Sandbox) -> [String; 3] {
    let mut child = waiting(sandbox);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    ["Uid:", "Gid:", "Groups:"].map(|name| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].trim().replace('\t', " ")
    })
}

#[test]
fn the_program_is_the_caller_unless_told_otherwise() {
    let (uid, gid) = own_ids();
    let outside = [format!("{uid} {uid} {uid} {uid}"), format!("{gid} {gid} {gid} {gid}")];
    let work = temp_dir();
    let work = real(work.path());
    for user in [None, Some((0, 0)), Some((65_532, 65_532)), Some((1, 2))] {
        let sandbox = host().bind(&work, "/work");
        let sandbox = user.map_or(sandbox.clone(), |(uid, gid)| sandbox.user(uid, gid));
        let (inside_uid, inside_gid) = user.unwrap_or((uid, gid));
        let told = inside(&sandbox, &["ids"]);
        assert_eq!(told.one("uid"), [inside_uid; 3].map(|id| id.to_string()).join(" "));
        assert_eq!(told.one("gid"), [inside_gid; 3].map(|id| id.to_string()).join(" "));
        assert_eq!(seen_by_host(&sandbox)[..2], outside, "{user:?}");
        // What it makes is the caller's.
        let name = format!("file-{inside_uid}");
        sh(&sandbox, &format!("touch /work/{name}"));
        let file = fs::metadata(work.join(&name)).unwrap();
        assert_eq!((file.uid(), file.gid()), (uid, gid));
        // And passwd has a name for it.
        assert!(!sh(&sandbox, "id -un").trim().is_empty());
    }
}

#[test]
fn maps_and_groups_can_not_be_changed_from_inside() {
    for sandbox in [Sandbox::new(), Sandbox::new().user(0, 0)] {
        let told = inside(&sandbox, &["privileges", "/nothing"]);
        for name in ["uid_map", "gid_map", "setgroups", "setgroups-none", "setgroups-allow", "setuid"] {
            let errno = told.errno(name);
            assert!([libc::EPERM, libc::EACCES, libc::EINVAL, libc::EROFS].contains(&errno), "{name}: {errno}");
        }
    }
    let mut child = host().command("sleep");
    let mut child = child.arg("1000").spawn().unwrap();
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap();
    let (uid, gid) = own_ids();
    assert_eq!(read("setgroups"), "deny\n");
    let fields = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(fields(read("uid_map")), [uid, uid, 1].map(|id| id.to_string()));
    assert_eq!(fields(read("gid_map")), [gid, gid, 1].map(|id| id.to_string()));
    child.kill().unwrap();
}

#[test]
fn root_maps_ranges_and_is_nobody_special_outside() {
    if !is_root() {
        // The suite is run as root too.
        return;
    }
    let map = IdMap::new(0, 100_000, 65_536);
    let work = temp_dir();
    let work = real(work.path());
    std::os::unix::fs::chown(&work, Some(100_000), Some(100_000)).unwrap();
    let sandbox = host().uid_map(map).gid_map(map).bind(&work, "/work");
    assert_eq!(sh(&sandbox, "id -u; id -g; touch /work/file; stat -c %u:%g /work/file"), "0\n0\n0:0\n");
    let file = fs::metadata(work.join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (100_000, 100_000));
    let ids = "100000 100000 100000 100000";
    assert_eq!(seen_by_host(&sandbox), [ids, ids, ""]);

    // A user in the middle of the range.
    let other = sandbox.clone().user(1000, 1000);
    assert_eq!(sh(&other, "id -u; id -g"), "1000\n1000\n");
    assert_eq!(seen_by_host(&other)[0], "101000 101000 101000 101000");

    // What only root may read, root inside may not: but for the caller who is mapped to itself.
    let secret = temp_dir();
    let word = token();
    fs::write(secret.path().join("secret"), &word).unwrap();
    fs::set_permissions(secret.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let bound = sandbox.bind_ro(real(secret.path()), "/secret");
    assert_eq!(inside(&bound, &["reads", "/secret/secret"]).errno("/secret/secret"), libc::EACCES);
    let own = host().bind_ro(real(secret.path()), "/secret");
    assert!(inside(&own, &["reads", "/secret/secret"]).0.contains(&word), "the control");

    // Several lines, the caller's own among them.
    let several = host().uid_map(IdMap::new(0, 100_000, 1000)).uid_map(IdMap::new(5000, 0, 1));
    let several = several.gid_map(IdMap::new(0, 100_000, 1000)).gid_map(IdMap::new(5000, 0, 1));
    assert_eq!(sh(&several.clone().user(5000, 5000), "id -u; id -g"), "5000\n5000\n");
    assert_eq!(sh(&several.user(7, 8), "id -u; id -g"), "7\n8\n");
}

#[test]
fn the_groups_of_root_stay_outside() {
    const NAME: &str = "ids::the_groups_of_root_stay_outside";
    const GROUP: u32 = 54_321;
    if !is_root() {
        // The suite is run as root too.
        return;
    }
    if !is_again() {
        again(NAME, &["setpriv", "--groups", "54321,54322"]);
        return;
    }
    let dir = temp_dir();
    let word = token();
    let file = dir.path().join("secret");
    fs::write(&file, &word).unwrap();
    std::os::unix::fs::chown(&file, Some(GROUP), Some(GROUP)).unwrap();
    // The owner is refused too: what reads it does so by the group, and by no capability.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o070)).unwrap();
    let control = ["--bounding-set", "-all", "--inh-caps", "-all", "--reuid", "54400", "--keep-groups", "cat"];
    let read = std::process::Command::new("setpriv").args(control).arg(&file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&read.stdout), word, "the control: {read:?}");

    use belljar::Namespaces;
    let range = IdMap::new(0, 100_000, 65_536);
    for sandbox in [
        Sandbox::new(),
        Sandbox::new().user(0, 0),
        Sandbox::new().user(5, 5),
        Sandbox::new().uid_map(range).gid_map(range),
        Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER),
        Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER).user(1000, 1000),
        Sandbox::new().namespaces(Namespaces::default() - Namespaces::PID),
        Sandbox::new().namespaces(Namespaces::all()),
    ] {
        assert_eq!(seen_by_host(&sandbox)[2], "", "{sandbox:?}");
        let told = inside(&sandbox.clone().bind_ro(real(dir.path()), "/work"), &["reads", "/work/secret"]);
        assert_eq!(told.errno("/work/secret"), libc::EACCES, "{sandbox:?}");
    }
}

/// The first range that /etc/subuid and /etc/subgid both give to the caller.
pub(crate) fn subordinate() -> Option<(u32, u32)> {
    let (uid, _) = own_ids();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let name = fields.into_iter().find(|fields| fields[2] == uid.to_string())?[0].to_owned();
    let range = |file: &str| {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")).map(str::to_owned))?;
        let (first, count) = line.split_once(':')?;
        Some((first.parse::<u32>().ok()?, count.parse::<u32>().ok()?))
    };
    let (uids, gids) = (range("/etc/subuid")?, range("/etc/subgid")?);
    (uids == gids && uids.1 >= 1001).then_some(uids)
}

#[test]
fn subordinate_ranges_come_by_the_helpers() {
    if is_root() {
        // Root needs no helper; the suite is run without privilege too.
        return;
    }
    let Some((first, _)) = subordinate() else { skip!("no subordinate ids are given to this user") };
    if !works(&["sh", "-c", "command -v newuidmap newgidmap"]) {
        skip!("newuidmap is not installed");
    }
    let (uid, gid) = own_ids();
    let work = temp_dir();
    let work = real(work.path());
    let sandbox = host()
        .uid_map(IdMap::new(0, uid, 1))
        .uid_map(IdMap::new(1, first, 1000))
        .gid_map(IdMap::new(0, gid, 1))
        .gid_map(IdMap::new(1, first, 1000))
        .bind(&work, "/work");
    // As the caller, which is root inside, with other ids to see.
    assert_eq!(sh(&sandbox, "id -u; id -g; touch /work/own; stat -c %u /work/own"), "0\n0\n0\n");
    assert_eq!(fs::metadata(work.join("own")).unwrap().uid(), uid);
    assert_eq!(seen_by_host(&sandbox)[0], [uid; 4].map(|id| id.to_string()).join(" "));
    // As another id, for real.
    fs::set_permissions(&work, fs::Permissions::from_mode(0o777)).unwrap();
    let other = sandbox.clone().user(7, 8);
    assert_eq!(sh(&other, "id -u; id -g; touch /work/other; stat -c %u:%g /work/other"), "7\n8\n7:8\n");
    let file = fs::metadata(work.join("other")).unwrap();
    assert_eq!((file.uid(), file.gid()), (first + 6, first + 7));
    let (outer_uid, outer_gid) = ((first + 6).to_string(), (first + 7).to_string());
    let expected = [vec![outer_uid; 4].join(" "), vec![outer_gid; 4].join(" "), String::new()];
    assert_eq!(seen_by_host(&other), expected, "no group of the caller's is left");
    // One line, and not the caller's.
    let range = IdMap::new(0, first, 1000);
    let foreign = host().uid_map(range).gid_map(range);
    assert_eq!(sh(&foreign, "id -u; id -g"), "0\n0\n");
    assert_eq!(seen_by_host(&foreign)[0], [first; 4].map(|id| id.to_string()).join(" "));
    // Init changes its ids meanwhile, in the memory of the program, which has to write to its own file of the host's /proc.
    let score = "cat /proc/self/oom_score_adj";
    let usual = sh(&host(), score);
    for sandbox in [&foreign, &foreign.clone().user(7, 8), &foreign.clone().network(belljar::Network::Loopback), &other]
    {
        for _ in 0..4 {
            assert_eq!(sh(sandbox, score), usual);
        }
    }

    // Past the end of the range: the file and the line that it lacks are named.
    let error = host().uid_map(IdMap::new(0, uid, 1)).uid_map(IdMap::new(1, 4_000_000_000, 7)).command("true").spawn();
    let error = error.unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Ids, ErrorKind::Unsupported), "{error}");
    assert_eq!(error.path(), Some(std::path::Path::new("/etc/subuid")));
    assert!(error.hint().unwrap().contains(":4000000000:7"), "{error:?}");
}

/// A policy with ids that take the helpers: the caller's own, and the first of its ranges.
fn with_range() -> Option<belljar::Sandbox> {
    let (first, _) = subordinate()?;
    let (uid, gid) = own_ids();
    let sandbox = host().uid_map(IdMap::new(0, uid, 1)).uid_map(IdMap::new(1, first, 1000));
    Some(sandbox.gid_map(IdMap::new(0, gid, 1)).gid_map(IdMap::new(1, first, 1000)))
}

#[test]
fn a_helper_that_hangs_is_ended_in_time() {
    const NAME: &str = "ids::a_helper_that_hangs_is_ended_in_time";
    if is_root() {
        // Root needs no helper; the suite is run without privilege too.
        return;
    }
    let Some(sandbox) = with_range() else { skip!("no subordinate ids are given to this user") };
    if is_again() {
        crate::alone::watch(std::time::Duration::from_secs(60));
        let before = (crate::harness::open_fds(), crate::harness::children());
        let limits = belljar::Limits::new().wall_time(std::time::Duration::from_millis(700));
        let error = sandbox.limits(limits).command("true").spawn().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Limits, Some(libc::ETIMEDOUT)), "{error}");
        assert!(error.to_string().contains("ids: newgidmap 0 "), "{error}");
        assert_eq!(error.path().unwrap().file_name().unwrap(), "newgidmap");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
        assert_eq!((crate::harness::open_fds(), crate::harness::children()), before, "nothing is left");
        return;
    }
    // Found first, it takes the place of the system's, and says more than a pipe holds.
    let dir = temp_dir();
    let helper = dir.path().join("newgidmap");
    fs::write(&helper, "#!/bin/sh\nhead -c 200000 /dev/zero >&2\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    again(NAME, &["env", &path]);
}

#[test]
fn helpers_serve_a_host_that_ignores_its_children() {
    if is_root() {
        // Root needs no helper; the suite is run without privilege too.
        return;
    }
    let Some(sandbox) = with_range() else { skip!("no subordinate ids are given to this user") };
    if !works(&["sh", "-c", "command -v newuidmap newgidmap"]) {
        skip!("newuidmap is not installed");
    }
    crate::alone::alone("ids::helpers_serve_a_host_that_ignores_its_children", || {
        // SAFETY: No handler is installed.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        assert_eq!(sh(&sandbox.user(7, 8), "id -u; id -g"), "7\n8\n");
    });
}

#[test]
fn ids_that_nobody_has_given_are_refused_before_anything_starts() {
    if is_root() {
        // Root may map any; the suite is run without privilege too.
        return;
    }
    let (uid, _) = own_ids();
    // Root's id, and one of somebody else: mapped, it would be theirs to become.
    for map in [IdMap::new(0, 0, 1), IdMap::new(uid, uid + 1, 1)] {
        let error = host().uid_map(map).command("true").spawn().unwrap_err();
        assert_eq!(error.layer(), Layer::Ids, "{error}");
        assert!(error.hint().is_some(), "{error:?}");
    }
}

#[test]
fn a_missing_helper_is_named() {
    const NAME: &str = "ids::a_missing_helper_is_named";
    // A caller that is not root, and may mount: over the helper, in mounts of its own.
    let unshare = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"];
    let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let wrapper = if is_root() { [&user[..], &unshare].concat() } else { unshare.to_vec() };
    if !is_again() {
        if !works(&[&wrapper[..], &["true"]].concat()) {
            skip!("unshare(1) makes no such user namespace here");
        }
        again(NAME, &wrapper);
        return;
    }
    let helper = std::path::Path::new("/usr/bin/newuidmap");
    if helper.exists() {
        let strings = [c"/dev/null", c"/usr/bin/newuidmap"];
        // SAFETY: The strings end in a zero byte and are only read; a bind takes neither type nor data.
        let mounted = unsafe {
            let null = std::ptr::null();
            libc::mount(strings[0].as_ptr(), strings[1].as_ptr(), null, libc::MS_BIND, null.cast())
        };
        assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
    }
    let error = host().uid_map(IdMap::new(0, 65_534, 1)).uid_map(IdMap::new(1, 100_000, 10)).command("true").spawn();
    let error = error.unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Ids, ErrorKind::Unsupported), "{error}");
    assert_eq!(error.to_string(), "ids: newuidmap: the program is not installed");
    assert!(error.hint().unwrap().contains("uidmap"), "{error:?}");
}
