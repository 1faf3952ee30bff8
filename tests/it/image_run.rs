//! What an image says about how it is run, and U23: what it has no say in.

use std::fs;
use std::path::Path;

use belljar::{Command, ErrorKind, Image, Layer, Rootfs, Sandbox};
use serde_json::{Value, json};

use crate::harness::{compile_static, real, temp_dir, token};
use crate::image_made::Layout;

fn image(settings: &Value) -> (Layout, Image) {
    let layout = Layout::of(settings);
    let image = Image::open(layout.path()).unwrap();
    (layout, image)
}

/// A sandbox of an image with these settings, on the host's userland.
fn sandbox(settings: &Value) -> Sandbox {
    Sandbox::from_image(&image(settings).1).rootfs(Rootfs::host())
}

#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success(), "{:?}\n{stderr}", output.outcome);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_image_s_own_command_runs_as_the_image_says() {
    let sandbox = sandbox(&json!({
        "Env": ["GREETING=hello = world", "EMPTY=", "TWICE=1", "TWICE=2", "HOME=/data"],
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["echo $GREETING,$EMPTY,$TWICE,$HOME,$PATH; pwd; id -u; id -g; touch /data/new /srv/in/new; ls /data"],
        "WorkingDir": "/not/there", "User": "65532:65533", "Volumes": { "/data": {}, "/srv/in": {}, "/srv": {} },
    }));
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let expected = format!("hello = world,,2,/data,{path}\n/not/there\n65532\n65533\nnew\n");
    assert_eq!(output(&mut sandbox.default_command().unwrap()), expected);
}

#[test]
fn what_the_caller_sets_goes_before_what_the_image_says() {
    let dir = temp_dir();
    let word = token();
    fs::write(dir.path().join("file"), &word).unwrap();
    let settings = json!({
        "Env": ["A=image", "B=image", "PATH=/image"], "WorkingDir": "/proc/self/fd/7", "User": "nobody-knows",
        "Entrypoint": ["sh"], "Volumes": { "/data": {} },
    });
    let sandbox = sandbox(&settings).user(5, 6).bind_ro(real(dir.path()), "/data");
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", "echo $A,$B; pwd; /usr/bin/id -u; /bin/cat /data/file"]).env("A", "caller").current_dir("/usr");
    assert_eq!(output(&mut command), format!("caller,image\n/usr\n5\n{word}"));
    let mut command = sandbox.command("/usr/bin/env");
    assert_eq!(output(command.env_clear().env("C", "caller").current_dir("/")), "C=caller\n");
    // A name is looked for in the image's PATH, where there is nothing.
    assert_eq!(sandbox.command("sh").current_dir("/").output().unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn arguments_take_the_place_of_cmd() {
    let both = sandbox(&json!({ "Entrypoint": ["echo", "entry"], "Cmd": ["cmd", "line"] }));
    assert_eq!(output(&mut both.default_command().unwrap()), "entry cmd line\n");
    assert_eq!(output(&mut both.entrypoint(["a", "b"]).unwrap()), "entry a b\n");
    assert_eq!(output(&mut both.entrypoint([""; 0]).unwrap()), "entry\n");
    let cmd = sandbox(&json!({ "Entrypoint": null, "Cmd": ["echo", "cmd"] }));
    assert_eq!(output(&mut cmd.default_command().unwrap()), "cmd\n");
    assert_eq!(output(&mut cmd.entrypoint(["echo", "other"]).unwrap()), "other\n");
    let none = sandbox(&json!({ "Entrypoint": [], "Cmd": [] }));
    for result in [none.default_command(), none.entrypoint([""; 0]), Sandbox::new().default_command()] {
        let error = result.unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Image, ErrorKind::InvalidPolicy), "{error}");
    }
    assert!(none.default_command().unwrap_err().hint().is_some());
}

#[test]
fn users_are_known_by_the_image_s_own_files() {
    let program = "#include <stdio.h>\n#include <unistd.h>\n\
        int main(void) { printf(\"%d:%d\\n\", (int)getuid(), (int)getgid()); return 0; }";
    let program = compile_static("ids", program);
    let root = temp_dir();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::copy(program, root.path().join("ids")).unwrap();
    fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:\napp:x:1001:1002::/:\n").unwrap();
    fs::write(root.path().join("etc/group"), "root:x:0:\nstaff:x:50:app\n").unwrap();
    let ids = |user: &str| {
        let sandbox = Sandbox::from_image(&image(&json!({ "User": user })).1).rootfs(real(root.path()));
        sandbox.command("/ids").output().map(|output| String::from_utf8(output.stdout).unwrap())
    };
    for (user, expected) in [
        ("", "0:0\n"),
        ("app", "1001:1002\n"),
        ("1001", "1001:1002\n"),
        ("app:staff", "1001:50\n"),
        ("65532", "65532:0\n"),
        ("65532:65533", "65532:65533\n"),
    ] {
        assert_eq!(ids(user).unwrap(), expected, "{user}");
    }
    // The host knows this one.
    let error = ids("daemon").unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Image, ErrorKind::InvalidImage));
    assert_eq!((error.step(), error.path()), ("User", Some(Path::new("/etc/passwd"))));
    let huge = vec![b'x'; (1 << 20) + 1];
    fs::write(root.path().join("etc/passwd"), huge).unwrap();
    assert!(ids("app").unwrap_err().to_string().contains("more than 1048576 bytes"));
}

#[test]
fn u23_what_leads_elsewhere_is_refused_before_there_is_a_process() {
    let volumes: serde_json::Map<_, _> = (0..65).map(|number| (format!("/v{number}"), json!({}))).collect();
    for (settings, step, cause) in [
        (json!({ "User": "0x0" }), "User", "no \"0x0\""),
        (json!({ "User": "4294967295" }), "User", "is not an id"),
        (json!({ "User": "4294967296:0" }), "User", "is not an id"),
        (json!({ "User": "-1" }), "User", "no \"-1\""),
        (json!({ "User": "0:" }), "User", "neither a number nor a name"),
        (json!({ "User": "a\nb" }), "User", "\"a\\nb\" is neither"),
        (json!({ "User": "root" }), "User", "no \"root\""),
        (json!({ "WorkingDir": "/proc/self/fd/7" }), "WorkingDir", "of the sandbox's own"),
        (json!({ "WorkingDir": "//proc/./self/fd/7" }), "WorkingDir", "of the sandbox's own"),
        (json!({ "WorkingDir": "/usr/../proc/self/fd/7" }), "WorkingDir", "without \"..\""),
        (json!({ "WorkingDir": "relative" }), "WorkingDir", "not an absolute path"),
        (json!({ "WorkingDir": "/a\u{0}b" }), "WorkingDir", "zero byte"),
        (json!({ "WorkingDir": "/dev/fd/7" }), "WorkingDir", "of the sandbox's own"),
        (json!({ "Volumes": { "/": {} } }), "Volumes", "the root itself"),
        (json!({ "Volumes": { "/proc": {} } }), "Volumes", "of the sandbox's own"),
        (json!({ "Volumes": { "/dev/shm": {} } }), "Volumes", "of the sandbox's own"),
        (json!({ "Volumes": { "../x": {} } }), "Volumes", "not an absolute path"),
        (json!({ "Volumes": { "/x/../../y": {} } }), "Volumes", "without \"..\""),
        (json!({ "Volumes": volumes }), "Volumes", "more than 64"),
    ] {
        let error = sandbox(&settings).command("true").plan().unwrap_err();
        assert_eq!(
            (error.layer(), error.kind(), error.step()),
            (Layer::Image, ErrorKind::InvalidImage, step),
            "{error}"
        );
        assert!(error.to_string().contains(cause), "{error}: not {cause}");
    }
    // No root is no empty root: a layer that is none can't be unpacked.
    let (_layout, image) = image(&json!({}));
    let error = Sandbox::from_image(&image).command("true").plan().unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Image, ErrorKind::InvalidImage));
}

#[test]
fn u23_a_link_of_the_root_leads_to_no_directory_of_the_host() {
    let root = temp_dir();
    fs::copy(crate::harness::noop(), root.path().join("noop")).unwrap();
    std::os::unix::fs::symlink("/proc/self/cwd", root.path().join("work")).unwrap();
    let (_layout, image) = image(&json!({ "WorkingDir": "/work" }));
    let sandbox = Sandbox::from_image(&image).rootfs(real(root.path()));
    let mut command = sandbox.command("/noop");
    let error = command.spawn().map(|child| child.id()).unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::ELOOP)), "{error}");
    // The control: it is the directory that is refused.
    assert!(command.current_dir("/").status().unwrap().success());
}

#[test]
fn u23_variables_and_labels_do_nothing_outside() {
    let dir = temp_dir();
    let canary = dir.path().join("canary");
    // A library for the host to load, and a command for it to run.
    let source = dir.path().join("canary.c");
    let code = format!(
        "#include <fcntl.h>\n__attribute__((constructor)) void f(void) {{ open({:?}, O_CREAT, 0600); }}",
        canary
    );
    fs::write(&source, code).unwrap();
    let library = dir.path().join("canary.so");
    let mut cc = std::process::Command::new("cc");
    assert!(cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap().success());
    let touch = format!("touch {}", canary.display());
    let sandbox = sandbox(&json!({
        "Env": [format!("LD_PRELOAD={}", library.display()), "LINES=a\nLD_AUDIT=b", "BASH_FUNC_id%%=() { echo; }"],
        "Labels": { "io.containers.autoupdate": touch, "RUN": touch },
    }));
    let lines = output(sandbox.command("sh").args(["-c", "printf %s \"$LINES\"; printf %s \"$LD_PRELOAD\""]));
    assert_eq!(lines, format!("a\nLD_AUDIT=b{}", library.display()));
    assert!(!canary.exists());
    // The control: the library does write, where it is loaded.
    let status = std::process::Command::new("true").env("LD_PRELOAD", &library).status().unwrap();
    assert!(status.success() && canary.exists());
}
