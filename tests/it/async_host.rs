//! Inside an asynchronous runtime: its threads spawn as others do.

use std::io::Read;
use std::time::Duration;

use belljar::Stdio;

use crate::harness::host;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap()
}

#[test]
fn tasks_spawn_directly_and_where_blocking_is_allowed() {
    runtime().block_on(async {
        let run = |code: i32| host().command("sh").args(["-c", &format!("exit {code}")]).status().unwrap().code();
        let direct = (0..16).map(|code| tokio::spawn(async move { (code, run(code)) }));
        let blocking = (16..32).map(|code| tokio::task::spawn_blocking(move || (code, run(code))));
        for task in direct.chain(blocking).collect::<Vec<_>>() {
            let (asked, told) = task.await.unwrap();
            assert_eq!(told, Some(asked));
        }
    });
}

#[test]
fn a_handle_outlives_the_task_and_the_thread_that_have_made_it() {
    let spawn = || {
        let mut command = host().command("sh");
        command.args(["-c", "read line; echo $line"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let runtime = runtime();
    let mut child = runtime.block_on(async move { tokio::task::spawn_blocking(spawn).await.unwrap() });
    // All its threads have ended after this.
    runtime.shutdown_timeout(Duration::from_secs(60));
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"still here\n").unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_runtime_with_one_thread_spawns_and_drops() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let child = host().command("sleep").arg("1000").spawn().unwrap();
        drop(child);
        assert!(host().command("true").status().unwrap().success());
    });
}
