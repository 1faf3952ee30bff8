//! A real distribution as the root: another release than the host's, made by `tests/make-rootfs.sh`.

use std::fs;
use std::path::PathBuf;

use belljar::{Capabilities, ErrorKind, IdMap, Rootfs, Sandbox};

use crate::harness::{in_memory, is_root, real, sh, temp_dir};
use crate::skip;

/// Where the tree is: `BELLJAR_TEST_ROOTFS`, or a cache.
fn tree() -> Option<PathBuf> {
    let path = std::env::var_os("BELLJAR_TEST_ROOTFS").map(PathBuf::from);
    let path = path.unwrap_or_else(|| PathBuf::from("/var/cache/belljar-test/trixie"));
    path.join("usr/bin/dpkg").exists().then(|| real(path))
}

macro_rules! debian {
    () => {
        match tree() {
            Some(tree) => Sandbox::new().rootfs(Rootfs::dir(tree)),
            None => skip!("no root is at BELLJAR_TEST_ROOTFS: run tests/make-rootfs.sh /var/cache/belljar-test/trixie"),
        }
    };
}

#[test]
fn its_own_programs_run_on_this_kernel() {
    let debian = debian!();
    let release = sh(&debian, ". /etc/os-release; echo $VERSION_CODENAME");
    assert_eq!(release, "trixie\n");
    assert!(sh(&debian, "dpkg --version").starts_with("Debian 'dpkg'"));
    assert!(sh(&debian, "dpkg -l | grep -c ^ii").trim().parse::<u32>().unwrap() > 50);
    assert_eq!(sh(&debian, "perl -e 'print \"perl $^V\" =~ /^perl v5/ ? 42 : 0'"), "42");
    assert_eq!(sh(&debian, "bash -c 'echo ${BASH_VERSION%%.*}'"), "5\n");
    // Its libc, which is another than the host's.
    let version = "ldd --version | head -n 1";
    let host = std::process::Command::new("sh").args(["-c", version]).output().unwrap();
    let inside = sh(&debian, version);
    assert!(inside.contains("2.41"), "{inside}");
    println!("{inside} on {}", String::from_utf8_lossy(&host.stdout));
}

#[test]
fn nothing_of_it_can_be_changed() {
    let debian = debian!();
    let script = "for f in /etc/passwd /bin/sh /usr /var/lib/dpkg/status /root; do touch -c $f && echo touched $f; \
                  chmod 777 $f && echo changed $f; done 2>/dev/null; (echo x >/etc/x) 2>/dev/null && echo made; \
                  rm -f /etc/hostname 2>/dev/null || true; echo fine >/tmp/x; cat /tmp/x";
    assert_eq!(sh(&debian, script), "fine\n");
    let root = debian.user(0, 0);
    assert_eq!(sh(&root, script), "fine\n", "as root inside");
    assert!(!tree().unwrap().join("etc/x").exists());
}

#[test]
fn a_place_that_it_lacks_is_made_on_a_private_layer() {
    let debian = debian!();
    let tree = tree().unwrap();
    let before = crate::mounts::snapshot(&tree.join("etc"));
    assert!(!tree.join("work").exists());
    let dir = temp_dir();
    let sandbox = debian.bind(real(dir.path()), "/work").file("/made/file", "made").dir("/deep/dir");
    let script = "cat /made/file; echo out >/work/out; ls -d /deep/dir; . /etc/os-release; echo $ID";
    assert_eq!(sh(&sandbox, script), "made/deep/dir\ndebian\n");
    assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "out\n");
    assert!(!tree.join("work").exists() && !tree.join("deep").exists());
    assert_eq!(crate::mounts::snapshot(&tree.join("etc")), before);
    // In one of its own directories too, for a caller who is the owner of that inside.
    let nested = sandbox.clone().file("/etc/belljar", "nested");
    match crate::harness::is_root() {
        true => assert_eq!(sh(&nested, "cat /etc/belljar; test -e /etc/debian_version"), "nested"),
        false => {
            let error = nested.command("sh").spawn().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
            assert!(error.hint().unwrap().contains("owner"), "{error:?}");
        }
    }
    // With the layer, it is as read-only as without.
    assert_eq!(sh(&sandbox, "touch /etc/x /usr/x /x 2>/dev/null || echo refused"), "refused\n");
}

#[test]
fn existing_places_need_no_layer() {
    let debian = debian!();
    let dir = temp_dir();
    fs::write(dir.path().join("in"), "input").unwrap();
    let sandbox = debian.bind(real(dir.path()), "/mnt").tmpfs("/srv").file("/etc/os-release", "ID=ours\n");
    let plan = sandbox.command("sh").plan().unwrap().to_string();
    assert!(!plan.contains("under a private layer"), "{plan}");
    assert_eq!(sh(&sandbox, "cat /mnt/in; echo x >/srv/x; cat /srv/x; . /etc/os-release; echo $ID"), "inputx\nours\n");
    // A target inside a bind is the host's to make.
    let error = sandbox.dir("/mnt/missing").command("sh").spawn().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::ENOENT)), "{error}");
}

#[test]
fn a_program_that_only_the_host_has_is_missing_there() {
    let debian = debian!();
    let error = debian.command("cargo-or-anything-else").spawn().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}");
    // A program of the host's that needs libraries of the host's is told apart from one that is not there.
    let dir = temp_dir();
    fs::write(dir.path().join("script"), "#!/usr/bin/no-such-interpreter\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir.path().join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let error = debian.bind_ro(real(dir.path()), "/mnt").command("/mnt/script").spawn().unwrap_err();
    assert!(error.hint().unwrap().contains("/usr/bin/no-such-interpreter"), "{error:?}");
}

/// What an installation does, without a network to install from: packages are removed, with their scripts; files and
/// directories are changed in every way.
const INSTALL: &str = "
    dpkg --purge --force-all login.defs mawk >/dev/null 2>&1; dpkg -s mawk 2>&1 | grep -c 'not installed'
    sed -i s/root/toor/ /etc/passwd; head -c 4 /etc/passwd; echo
    rm -r /usr/share/doc; mkdir /usr/share/doc; ls -A /usr/share/doc
    mv /etc/apt /etc/apt.old; ls -d /etc/apt.old; test ! -e /etc/apt
    mkdir -p /opt/new/package; echo x >/opt/new/package/file; ln -s package /opt/new/link; cat /opt/new/link/file
    perl -e 'rename(\"/etc/passwd\", \"/etc/copy\") && rename(\"/etc/copy\", \"/etc/passwd\") or die $!'
    head -c 4 /etc/passwd; echo
";

#[test]
fn it_can_be_installed_to_and_stays_as_it_was() {
    let Some(tree) = tree() else { skip!("no root is at BELLJAR_TEST_ROOTFS") };
    let look = ["etc", "var/lib/dpkg", "usr/share/doc", "usr/bin"].map(|dir| tree.join(dir));
    let before = is_root().then(|| look.each_ref().map(|dir| crate::mounts::snapshot(dir)));
    let root = Rootfs::dir(&tree);
    let mut roots = vec![root.clone().copied()];
    if is_root() {
        // The tree is root's: for anybody else its files are nobody's.
        roots.extend(in_memory(root));
    }
    for root in roots {
        let sandbox = Sandbox::new().rootfs(root.clone()).user(0, 0);
        assert_eq!(sh(&sandbox, INSTALL), "1\ntoor\n/etc/apt.old\nx\ntoor\n", "{root:?}");
    }
    let after = is_root().then(|| look.each_ref().map(|dir| crate::mounts::snapshot(dir)));
    assert!(before == after, "the tree is as it was");
}

#[test]
fn a_copy_leaves_out_what_the_caller_may_not_read() {
    let Some(tree) = tree() else { skip!("no root is at BELLJAR_TEST_ROOTFS") };
    let readable = fs::File::open(tree.join("etc/shadow")).is_ok();
    let copied =
        sh(&Sandbox::new().rootfs(Rootfs::dir(&tree).copied()), "test -e /etc/shadow && echo there || echo left out");
    assert_eq!(copied, if readable { "there\n" } else { "left out\n" });
}

/// The roots of three glibc generations, as far as they are there.
fn releases() -> Vec<(&'static str, PathBuf)> {
    ["bullseye", "trixie", "sid"].into_iter().filter_map(|suite| Some((suite, crate::fixtures::root(suite)?))).collect()
}

#[test]
fn the_programs_of_three_releases_run_on_this_kernel() {
    let releases = releases();
    if releases.len() < 3 {
        skip!("roots are missing in BELLJAR_TEST_CACHE: run tests/make-rootfs.sh for bullseye, trixie and sid");
    }
    let script = "
        dpkg -l | grep -c ^ii >/dev/null && dpkg --audit
        perl -MPOSIX -MSocket -e 'my $p = fork // die; exit 3 unless $p; waitpid $p, 0; print $? >> 8, \"\\n\"; socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0) or die $!'
        bash -c 'set -o pipefail; seq 1000 | sort -rn | head -n 1; cat < <(echo substituted)' || test $? = 141
        find /usr/bin -type f | wc -l | awk '$1 > 100 { print \"many\" }'
        cd /tmp && tar cf - /usr/share/doc/base-files 2>/dev/null | gzip | tar tzf - | wc -l | awk '$1 > 2 { print \"packed\" }'
        date -u -d @0 +%Y; id -un; getent passwd daemon | cut -d: -f1,3; nproc | grep -c '^[0-9]'; timeout 5 sleep 0
    ";
    for (suite, root) in releases {
        let said = sh(&Sandbox::new().rootfs(Rootfs::dir(root)).user(0, 0), script);
        assert_eq!(said, "3\n1000\nsubstituted\nmany\npacked\n1970\nroot\ndaemon:1\n1\n", "{suite}");
    }
}

/// Makes a package with a script of its own, installs it and removes it. Setgroups(2) is denied in every sandbox, and so
/// apt has to do without its own.
const INSTALL_PACKAGE: &str = "
    mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin /tmp/p/etc
    printf 'Package: belljar-made\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.org>\\nDescription: x\\nDepends: dpkg\\n' >/tmp/p/DEBIAN/control
    printf '#!/bin/sh\\nset -e\\necho configured $1 >/etc/made.log\\n' >/tmp/p/DEBIAN/postinst
    printf '/etc/made.conf\\n' >/tmp/p/DEBIAN/conffiles
    echo conf >/tmp/p/etc/made.conf
    printf '#!/bin/sh\\necho made\\n' >/tmp/p/usr/bin/made
    chmod 755 /tmp/p/DEBIAN/postinst /tmp/p/usr/bin/made
    dpkg-deb --root-owner-group --build /tmp/p /tmp/made.deb >/dev/null
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq -y -o APT::Sandbox::User=root /tmp/made.deb >/tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
    made; cat /etc/made.log; dpkg-query -W -f '${Status}\\n' belljar-made
    apt-get remove -qq -y -o APT::Sandbox::User=root --purge belljar-made >/tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
    test ! -e /usr/bin/made && test ! -e /etc/made.conf && echo gone
";

const INSTALLED: &str = "made\nconfigured configure\ninstall ok installed\ngone\n";

/// What apt and dpkg need to be somebody else for a moment, and to give files away.
fn packager() -> Capabilities {
    Capabilities::CHOWN
        | Capabilities::DAC_OVERRIDE
        | Capabilities::FOWNER
        | Capabilities::FSETID
        | Capabilities::SETUID
        | Capabilities::SETGID
}

#[test]
fn packages_are_installed_by_root_and_by_anybody_in_a_copy() {
    for (suite, root) in releases() {
        let copied = Sandbox::new().rootfs(Rootfs::dir(&root).copied()).user(0, 0);
        assert_eq!(sh(&copied, INSTALL_PACKAGE), INSTALLED, "{suite}, copied");
        if let Some(changed) = in_memory(Rootfs::dir(&root)).filter(|_| is_root()) {
            let all = IdMap::new(0, 0, 65536);
            let mapped = Sandbox::new().rootfs(changed).user(0, 0).uid_map(all).gid_map(all);
            let mapped = mapped.capabilities(packager());
            assert_eq!(sh(&mapped, INSTALL_PACKAGE), INSTALLED, "{suite}, mapped");
            assert!(!root.join("etc/made.log").exists());
        }
    }
}

#[cfg(feature = "image")]
#[test]
fn packages_are_installed_in_an_image_by_its_own_root() {
    use belljar::{Image, Ownership, Store};
    crate::memory!();
    let images = crate::images!();
    if !images.join("large.tar").exists() {
        skip!("there is no image large.tar: it is made of the root at BELLJAR_TEST_ROOTFS");
    }
    let dir = temp_dir();
    let store = Store::open(real(dir.path()).join("store")).unwrap();
    let (store, range) = match (is_root(), crate::ids::subordinate()) {
        (true, _) => (store, None),
        (false, range @ Some(_)) => (store.ownership(Ownership::Subordinate), range),
        (false, None) => {
            eprintln!("SKIPPED: {}: no subordinate ids are given to this user", file!());
            return;
        }
    };
    let image = store.unpack(&Image::open(images.join("large.tar")).unwrap()).unwrap();
    // The maps that the store makes its files with.
    let map = |id: u32| match range {
        None => vec![IdMap::new(0, 0, 65536)],
        Some((first, count)) => vec![IdMap::new(0, id, 1), IdMap::new(1, first, count)],
    };
    let (uid, gid) = crate::ids::own_ids();
    let mut sandbox = Sandbox::from_image(&image).rootfs(Rootfs::image(&image).ephemeral()).capabilities(packager());
    sandbox = map(uid).into_iter().fold(sandbox, Sandbox::uid_map);
    sandbox = map(gid).into_iter().fold(sandbox, Sandbox::gid_map);
    assert_eq!(sh(&sandbox, INSTALL_PACKAGE), INSTALLED);
    assert_eq!(sh(&sandbox, "stat -c '%U:%G' /etc/shadow; test ! -e /etc/made.log"), "root:shadow\n");
    // Another user of the image's is somebody else, with files of its own.
    let games = Sandbox::from_image(&image).user(42, 42);
    assert_eq!(
        sh(&games, "id -u; stat -c %U /etc/shadow; cat /etc/shadow >/dev/null && echo read"),
        "42\nroot\nread\n"
    );
}
