//! What an error says, how it converts, and what it never says.

use std::error::Error as _;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use belljar::{Error, ErrorKind, IdMap, Layer, Rootfs, Sandbox};

use crate::harness::{host, noop, token, with_program};

fn error(sandbox: &Sandbox) -> Error {
    sandbox.command("/program").spawn().unwrap_err()
}

/// One error of the kernel, one of ours with an error number, and one without.
fn errors() -> [Error; 3] {
    [
        error(&Sandbox::new().bind("/belljar/no such", "/b")),
        error(&Sandbox::new().uid_map(IdMap::new(0, 0, 0))),
        error(&Sandbox::new().hostname(" ")),
    ]
}

#[test]
fn an_error_reads_layer_step_cause() {
    let texts = [
        "mount: bind /belljar/no such -> /b: No such file or directory (os error 2)",
        "ids: uid_map: the line \"0 0 0\" maps no id",
        "namespaces: sethostname: the host name must be printable ASCII without spaces",
    ];
    for (error, text) in errors().iter().zip(texts) {
        assert_eq!(error.to_string(), text);
        assert!(text.starts_with(&format!("{}: {}: ", error.layer(), error.step())));
    }
}

#[test]
fn its_parts_can_be_had_one_by_one() {
    let [os, said, plain] = errors();
    assert_eq!((os.layer(), os.kind(), os.raw_os_error()), (Layer::Mount, ErrorKind::Os, Some(libc::ENOENT)));
    assert_eq!((os.step(), os.path()), ("bind /belljar/no such -> /b", Some(Path::new("/belljar/no such"))));
    assert_eq!((said.kind(), said.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::EINVAL)));
    assert_eq!((plain.kind(), plain.raw_os_error()), (ErrorKind::InvalidPolicy, None));
    assert_eq!((plain.path(), plain.hint()), (None, None));
    let error = host().command("/nope").spawn().unwrap_err();
    assert_eq!((error.layer(), error.step()), (Layer::Exec, "execve /nope"));
    assert!(error.hint().is_some());
    assert!(!error.to_string().contains(&error.hint().unwrap()), "the hint is apart: {error}");
}

#[test]
fn the_words_of_a_failed_step_are_those_of_the_plan() {
    let sandbox = with_program(&noop()).file("/file", "").dir("/file");
    let mut command = sandbox.command("/program");
    for error in [command.spawn().unwrap_err(), command.current_dir("/nope").spawn().unwrap_err()] {
        let plan = command.plan().unwrap().to_string();
        let line = format!("  {:<12}  {}\n", error.layer().to_string(), error.step());
        assert!(plan.contains(&line), "{line}{plan}");
    }
}

#[test]
fn it_converts_into_an_io_error_of_the_right_kind_and_back() {
    let kinds = [io::ErrorKind::NotFound, io::ErrorKind::InvalidInput, io::ErrorKind::InvalidInput];
    for (error, kind) in errors().into_iter().zip(kinds) {
        let text = error.to_string();
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (kind, text.clone()));
        let inner = error.get_ref().unwrap().downcast_ref::<Error>().unwrap();
        assert_eq!(inner.to_string(), text);
    }
    let kind = |mut command: belljar::Command| io::Error::from(command.spawn().unwrap_err()).kind();
    assert_eq!(kind(host().command("/nope")), io::ErrorKind::NotFound);
    assert_eq!(kind(host().command("/usr")), io::ErrorKind::PermissionDenied);
    // `?` does it.
    fn spawn() -> io::Result<()> {
        host().command("/nope").status()?;
        Ok(())
    }
    assert_eq!(spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn its_display_is_whole_so_that_a_chain_repeats_nothing() {
    for error in errors() {
        assert!(error.source().is_none(), "{error}");
        let boxed: Box<dyn std::error::Error + Send + Sync> = error.into();
        assert!(boxed.downcast_ref::<Error>().is_some());
        assert!(boxed.to_string().contains(": "));
    }
}

#[test]
fn it_can_go_to_another_thread() {
    fn goes<T: Send + Sync + 'static>(_: &T) {}
    for error in errors() {
        goes(&error);
        let text = error.to_string();
        assert_eq!(std::thread::spawn(move || error.to_string()).join().unwrap(), text);
    }
}

/// Everything that is printed about a command: itself, its policy, its plan, its error.
fn printed(sandbox: &Sandbox, command: &mut belljar::Command) -> Vec<String> {
    let mut printed = vec![format!("{sandbox:?}"), format!("{command:?}")];
    if let Ok(plan) = command.plan() {
        printed.extend([format!("{plan:?}"), plan.to_string()]);
    }
    if let Err(error) = command.spawn() {
        printed.extend([error.to_string(), format!("{error:?}"), error.hint().unwrap_or_default()]);
        printed.push(format!("{:?}", io::Error::from(error)));
    }
    printed
}

#[test]
fn nothing_that_is_printed_has_a_value_of_the_environment_or_the_content_of_a_file() {
    let secret = token();
    let sandbox = host().file("/etc/secret", &secret);
    let bytes = format!("{:?}", secret.as_bytes());
    let bytes = bytes.trim_matches(['[', ']']);
    // What fails in the sandbox, and what is refused because of that very value.
    for value in [secret.clone(), format!("{secret}\0"), secret.repeat(5000)] {
        let mut command = sandbox.command("/nope");
        command.env("SECRET", &value);
        let printed = printed(&sandbox, &mut command);
        assert!(printed.len() >= 6, "there is an error: {printed:?}");
        for text in &printed {
            assert!(!text.contains(&secret) && !text.contains(bytes), "{text}");
        }
        // The control: the name may be printed, and is.
        assert!(printed.iter().any(|text| text.contains("SECRET")));
    }
}

#[test]
fn what_others_have_named_can_not_write_to_a_terminal() {
    let odd = OsStr::from_bytes(b"/new\nline\x1b[2J\x07\x7f\xc2\x9b\xff\xe2\x82");
    let shown = "/new\\nline\\u{1b}[2J\\u{7}\\u{7f}\\u{9b}\\xff\\xe2\\x82";
    let ours = || with_program(&noop());
    let steps = [
        (error(&Sandbox::new().rootfs(odd)), format!("root {shown}")),
        (error(&Sandbox::new().bind(odd, "/b")), format!("bind {shown} -> /b")),
        (error(&Sandbox::new().bind_ro(odd, odd)), format!("bind_ro {shown} -> {shown}")),
        (error(&ours().file(odd, "").tmpfs(odd)), format!("tmpfs {shown} size=1073741824 nr_inodes=65536 mode=1777")),
        (error(&ours().dir(odd).file(odd, "")), format!("file {shown} (0 bytes)")),
        (error(&ours().file(odd, "").dir(odd)), format!("dir {shown}")),
        (error(&ours().file(odd, "").symlink(odd, odd)), format!("symlink {shown} <- {shown}")),
        (ours().command("/program").current_dir(odd).spawn().unwrap_err(), format!("chdir {shown}")),
        (ours().command(odd).spawn().unwrap_err(), format!("execve {shown}")),
    ];
    for (error, step) in steps {
        let text = format!("{error}{}", error.hint().unwrap_or_default());
        assert!(!text.contains(char::is_control), "{text:?}");
        assert_eq!(error.step(), step);
        // The path itself is the caller's, as it was given.
        assert_eq!(error.path().map(Path::as_os_str), Some(odd));
    }
    let plan = ours().bind_ro("/usr", odd).mask(odd).command(odd).current_dir(odd).plan().unwrap().to_string();
    assert!(!plan.contains(|char: char| char.is_control() && char != '\n'), "{plan:?}");
    assert!(plan.contains(&format!("  mount         mask {shown}\n")), "{plan}");
    for name in ["A\x1b\n=", "\x1b=", "A\x1b\0"] {
        let error = Sandbox::new().rootfs(Rootfs::empty()).command("x").env(name, "").spawn().unwrap_err();
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
}
