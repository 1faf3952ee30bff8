//! A store among many who use it, and U24 to U26: unpackers that die, disks that are full, hosts with odd settings.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use belljar::{ErrorKind, Image, Rootfs, Sandbox, Stdio as Streams, Store};

use crate::alone::{Random, Until, again, alone, is_role};
use crate::harness::{children, is_root, real, temp_dir};
use crate::store_made::{Place, Tar, image};
use crate::{for_root, images};

/// Three layers that depend on each other, and take a moment.
fn layers() -> Vec<Tar> {
    let file = |tar: Tar, number: u32| tar.file(format!("d{}/{number}", number % 7), [number as u8; 9000]);
    vec![
        (0..400).fold(Tar::default(), file),
        (0..200).fold(Tar::default(), |tar, number| tar.file(format!("d{}/.wh.{number}", number % 7), "")),
        (500..700).fold(Tar::default(), file).hard_link("link", "d6/251"),
    ]
}

fn read(image: &Image, path: &str) -> bool {
    let program = crate::harness::compile_static("readable", READABLE);
    let sandbox = Sandbox::new().rootfs(Rootfs::image(image)).bind_ro(program, "/readable");
    sandbox.command("/readable").arg(path).status().unwrap().success()
}

const READABLE: &str = r"
    #include <fcntl.h>
    #include <unistd.h>
    int main(int argc, char **argv) {
        char byte;
        return read(open(argv[1], O_RDONLY), &byte, 1) != 1;
    }";

#[track_caller]
fn assert_whole(image: &Image) {
    for (path, there) in [("/d6/251", true), ("/link", true), ("/d6/699", true), ("/d1/1", false)] {
        assert_eq!(read(image, path), there, "{path}");
    }
}

#[test]
fn u24_many_unpack_the_same_image_at_once() {
    const TEST: &str = "store_shared::u24_many_unpack_the_same_image_at_once";
    if is_role("unpacks") {
        let image = Image::open(std::env::var("BELLJAR_TEST_IMAGE").unwrap()).unwrap();
        assert_whole(&Store::open(std::env::var("BELLJAR_TEST_STORE").unwrap()).unwrap().unpack(&image).unwrap());
        return;
    }
    let place = Place::new();
    let (layout, image) = image(&layers());
    let processes: Vec<_> = (0..4)
        .map(|_| {
            let mut command = again(TEST, "unpacks");
            command.env("BELLJAR_TEST_IMAGE", layout.path());
            command.env("BELLJAR_TEST_STORE", real(place.dir.path()).join("store")).stdout(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_whole(&place.store.unpack(&image).unwrap()));
        }
    });
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(place.names("layers").len(), 3);
    place.assert_untouched("all have unpacked");
}

#[test]
fn u25_unpacking_that_is_killed_leaves_nothing_that_is_half() {
    const TEST: &str = "store_shared::u25_unpacking_that_is_killed_leaves_nothing_that_is_half";
    if is_role("is killed") {
        let image = Image::open(std::env::var("BELLJAR_TEST_IMAGE").unwrap()).unwrap();
        let store = Store::open(std::env::var("BELLJAR_TEST_STORE").unwrap()).unwrap();
        loop {
            drop(store.unpack(&image).unwrap());
            store.remove(&image).unwrap();
            store.collect().unwrap();
        }
    }
    let place = Place::new();
    let (layout, image) = image(&layers());
    let mut random = Random(11);
    let mut interrupted = 0;
    for _ in 0..10 {
        let mut command = again(TEST, "is killed");
        command.env("BELLJAR_TEST_IMAGE", layout.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.env("BELLJAR_TEST_STORE", real(place.dir.path()).join("store")).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + random.below(300)));
        assert!(process.try_wait().unwrap().is_none(), "it goes on until it is killed");
        process.kill().unwrap();
        process.wait().unwrap();
        interrupted += usize::from(!place.names("work").is_empty());
        // Whatever it was at: there is a way on, and what was half is swept with it.
        assert_whole(&place.store.unpack(&image).unwrap());
        place.store.remove(&image).unwrap();
        place.store.collect().unwrap();
        place.assert_untouched("after a kill");
        assert_eq!(place.names("layers"), [""; 0]);
    }
    assert!(interrupted > 0, "the control: {interrupted} were killed in the middle");
}

#[test]
fn u25_another_image_sweeps_too() {
    let place = Place::new();
    let left = place.dir.path().join("store/work/left");
    fs::create_dir_all(left.join("diff/d")).unwrap();
    fs::set_permissions(left.join("diff/d"), Permissions::from_mode(0o000)).unwrap();
    place.unpack(&[Tar::default().file("f", "")]).unwrap();
    place.assert_untouched("swept");
}

#[test]
fn a_hand_that_is_killed_is_an_error_and_the_store_goes_on() {
    alone("store_shared::a_hand_that_is_killed_is_an_error_and_the_store_goes_on", || {
        let (_layout, image) = image(&layers());
        let place = Place::new();
        let over = AtomicBool::new(false);
        let mut bad = 0;
        std::thread::scope(|scope| {
            let _until = Until(&over);
            scope.spawn(|| {
                let mut random = Random(5);
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(random.below(40)));
                    for child in children() {
                        let pid: libc::pid_t = child.split(' ').next().unwrap().parse().unwrap();
                        // SAFETY: No pointers. The process is a child, or has ended: ids are not used again so soon.
                        unsafe { libc::kill(pid, libc::SIGKILL) };
                    }
                }
            });
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(4) {
                match place.store.unpack(&image) {
                    Ok(image) => drop(image),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Os, "{error}");
                        bad += 1;
                    }
                }
                let _ = place.store.remove(&image);
                let _ = place.store.collect();
            }
        });
        assert!(bad > 5, "the control: {bad}");
        assert_whole(&place.store.unpack(&image).unwrap());
        place.assert_untouched("killed");
        place.assert_alone("killed");
    });
}

#[test]
fn an_image_in_use_stays_and_collecting_waits_for_nobody_who_runs() {
    let place = Place::new();
    let used = place.unpack(&layers()).unwrap();
    let program = crate::harness::compile_static("readable", READABLE);
    let sandbox = Sandbox::new().rootfs(Rootfs::image(&used)).bind_ro(program, "/readable");
    let mut child = sandbox.command("/readable").arg("/dev/stdin").stdin(Streams::piped()).spawn().unwrap();
    drop(sandbox);
    let (_layout, same) = image(&layers());
    drop(used);
    let error = place.store.remove(&same).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::EBUSY)), "{error}");
    assert_eq!(place.store.collect().unwrap().layers, 0, "the child has it");
    drop(child.stdin.take());
    child.wait().unwrap();
    drop(child);
    place.store.remove(&same).unwrap();
    assert_eq!(place.store.collect().unwrap().layers, 3);
    place.assert_untouched("collected");
}

#[test]
fn collecting_beside_unpacking_takes_nothing_away() {
    let place = Place::new();
    let over = AtomicBool::new(false);
    let images: Vec<_> = (0..3_u8)
        .map(|number| image(&[Tar::default().file("f", [number; 10]), Tar::default().file("g", [number; 3])]))
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                place.store.collect().unwrap();
            }
        });
        let _until = Until(&over);
        for turn in 0..15 {
            let unpacked = place.store.unpack(&images[turn % 3].1).unwrap();
            assert!(read(&unpacked, "/f") && read(&unpacked, "/g"));
            drop(unpacked);
            place.store.remove(&images[turn % 3].1).unwrap();
        }
    });
    place.store.collect().unwrap();
    place.assert_untouched("collected");
    assert_eq!(place.names("layers"), [""; 0]);
}

#[test]
fn u16_what_differs_from_its_digest_leaves_nothing() {
    let place = Place::new();
    let (layout, image) = image(&[Tar::default().file("f", "first"), Tar::default().file("g", "second")]);
    let file = layout.file_of(image.layers()[1].digest());
    let mut bytes = fs::read(&file).unwrap();
    bytes[512] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = place.store.unpack(&image).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage, "{error}");
    assert!(error.to_string().contains("layer 2 sha256:"), "{error}");
    assert_eq!(place.names("layers").len(), 1, "the first is good");
    assert_eq!(place.names("images"), [""; 0]);
    place.assert_untouched("another digest");
}

#[test]
fn the_umask_of_the_host_does_not_matter() {
    alone("store_shared::the_umask_of_the_host_does_not_matter", || {
        // SAFETY: No pointers. This process is for this test alone.
        let set = |umask| unsafe { libc::umask(umask) };
        for umask in [0, 0o777] {
            set(0o022);
            let dir = temp_dir();
            let path = real(dir.path()).join("made/for/store");
            let (_layout, image) = image(&layers());
            set(umask);
            for _ in 0..2 {
                let store = Store::open(&path).unwrap();
                drop(store.unpack(&image).unwrap());
                drop(Store::open(&path).unwrap().unpack(&image).unwrap());
                store.remove(&image).unwrap();
                assert_eq!(store.collect().unwrap().layers, 3);
            }
            assert_eq!(set(0o022), umask, "and it is as it was");
            for above in ["made", "made/for", "made/for/store", "made/for/store/layers"] {
                assert_eq!(fs::metadata(dir.path().join(above)).unwrap().mode() & 0o7777, 0o700, "{above}");
            }
        }
    });
}

#[test]
fn a_host_without_descriptors_gets_an_error_and_keeps_nothing() {
    alone("store_shared::a_host_without_descriptors_gets_an_error_and_keeps_nothing", || {
        let (_layout, image) = image(&layers());
        let place = Place::new();
        let mut good = false;
        let set = |soft: u64| {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: 1024 };
            // SAFETY: The kernel reads one structure.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        };
        let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        for more in 0..40 {
            set(open + more);
            let unpacked = place.store.unpack(&image).map(drop);
            set(1024);
            match unpacked {
                Ok(()) => good = true,
                Err(error) => {
                    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::EMFILE)), "{error}");
                }
            }
            place.assert_alone("few descriptors");
            let _ = place.store.remove(&image);
            place.store.collect().unwrap();
            place.assert_untouched("few descriptors");
        }
        assert!(good, "the control: in the end there are enough");
    });
}

#[test]
fn u26_a_full_disk_is_an_error_and_keeps_nothing() {
    for_root!();
    alone("store_shared::u26_a_full_disk_is_an_error_and_keeps_nothing", || {
        // SAFETY: No pointers. This process is for this test alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        let dir = temp_dir();
        let mount = |options: &str| {
            let script = format!(
                "mount --make-rprivate / && mount -t tmpfs -o mode=700,{options} tmpfs {}",
                dir.path().display()
            );
            assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
        };
        let (_layout, image) = image(&layers());
        for options in ["size=1M", "nr_inodes=200"] {
            mount(options);
            let store = Store::open(real(dir.path()).join("store")).unwrap();
            let error = store.unpack(&image).unwrap_err();
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::ENOSPC)), "{error}");
            assert_eq!(fs::read_dir(dir.path().join("store/work")).unwrap().count(), 0, "{options}");
            let more = format!("mount -o remount,size=100M,nr_inodes=10k {}", dir.path().display());
            assert!(std::process::Command::new("sh").args(["-c", &more]).status().unwrap().success());
            drop(store.unpack(&image).unwrap());
            assert!(std::process::Command::new("umount").arg(dir.path()).status().unwrap().success());
        }
    });
}

#[test]
fn a_store_that_is_not_the_caller_s_alone_is_refused() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let make = |name: &str, mode| {
        fs::create_dir(dir.join(name)).unwrap();
        fs::set_permissions(dir.join(name), Permissions::from_mode(mode)).unwrap();
        dir.join(name)
    };
    let refused = |path: &Path| {
        let error = Store::open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{error}");
        assert!(error.hint().is_some() && error.path().is_some(), "{error}");
    };
    for mode in [0o777, 0o770, 0o755, 0o711, 0o701] {
        let store = make(&format!("{mode:o}"), mode);
        refused(&store);
        assert_eq!(fs::read_dir(&store).unwrap().count(), 0, "nothing is made in it");
    }
    refused(&make("free", 0o777).join("store"));
    Store::open(make("sticky", 0o1777).join("store")).unwrap();
    let good = make("good", 0o700);
    symlink(&good, dir.join("link")).unwrap();
    Store::open(dir.join("link")).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    assert_eq!(Store::open(dir.join("file")).unwrap_err().kind(), ErrorKind::Os);
    symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
    assert_eq!(Store::open(dir.join("dangling")).unwrap_err().kind(), ErrorKind::Os);
    match is_root() {
        true => {
            std::os::unix::fs::chown(&good, Some(65534), None).unwrap();
            refused(&good);
        }
        // A directory of root's.
        false => refused(Path::new("/usr")),
    }
}

#[test]
fn unpacking_takes_little_memory() {
    let images = images!();
    alone("store_shared::unpacking_takes_little_memory", || {
        let dir = temp_dir();
        let store = Store::open(real(dir.path()).join("store")).unwrap();
        store.unpack(&Image::open(images.join("large.tar")).unwrap()).unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        println!("peak: {peak} KiB");
        assert!(peak < 128 << 10, "{peak} KiB, of which this program alone takes some");
    });
}
