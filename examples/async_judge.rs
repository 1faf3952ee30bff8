//! Judges many submissions at once in one tokio runtime: each is a shell script, and each test of each runs in a sandbox of
//! its own from a pool, with a time limit.
//!
//! ```text
//! cargo run --release --features tokio --example async_judge -- INPUT=EXPECTED... -- SCRIPT...
//! ```
//!
//! Without arguments, four submissions are judged that are to add two numbers.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use belljar::{Output, Pool, Rootfs, Sandbox, Stdio};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long a submission may run on one test.
const LIMIT: Duration = Duration::from_secs(1);

/// How many tests run at once.
const AT_ONCE: usize = 8;

const SUBMISSIONS: [(&str, &str); 4] = [
    ("right", "read a b; echo $((a + b))"),
    ("wrong", "read a b; echo $((a * b))"),
    ("failing", "read a b; exit $((a + b))"),
    ("endless", "while :; do :; done & wait"),
];

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut sides = args.split(|arg| arg == "--");
    let (Some(tests @ [_, ..]), Some(scripts)) = (sides.next(), sides.next()) else {
        let submissions = SUBMISSIONS.map(|(name, script)| (name.to_owned(), script.to_owned()));
        return runtime.block_on(judge_all(submissions.into(), &[("1 2", "3"), ("2 2", "4")]));
    };
    let tests = tests.iter().map(|test| test.split_once('=').ok_or("a test is INPUT=EXPECTED"));
    let submissions = scripts.iter().map(|path| Ok((path.clone(), std::fs::read_to_string(path)?)));
    runtime
        .block_on(judge_all(submissions.collect::<Result<_>>()?, &tests.collect::<std::result::Result<Vec<_>, _>>()?))
}

/// Prints the verdict on every test of every submission, as they come.
async fn judge_all(submissions: Vec<(String, String)>, tests: &[(&str, &str)]) -> Result<()> {
    let pool = Arc::new(Sandbox::new().rootfs(Rootfs::host()).prepare()?.pool(AT_ONCE)?);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (name, script) in submissions {
        for (number, (input, expected)) in tests.iter().enumerate() {
            let (pool, places, name, script) = (pool.clone(), places.clone(), name.clone(), script.clone());
            let (input, expected) = (format!("{input}\n"), format!("{expected}\n"));
            tasks.spawn(async move {
                let _place = places.acquire_owned().await?;
                let verdict = judge(&pool, &script, &input, &expected).await?;
                Ok::<_, Box<dyn Error + Send + Sync>>(format!("{name}: {verdict} on test {}", number + 1))
            });
        }
    }
    while let Some(verdict) = tasks.join_next().await {
        println!("{}", verdict??);
    }
    Ok(())
}

async fn judge(pool: &Pool, script: &str, input: &str, expected: &str) -> Result<&'static str> {
    // The future owns the sandbox: if the time is over, it is dropped, and that kills everything inside.
    let Ok(output) = tokio::time::timeout(LIMIT, run(pool, script, input)).await else { return Ok("too slow") };
    let output = output?;
    Ok(match output.stdout == expected.as_bytes() {
        _ if !output.outcome.success() => "failed",
        true => "right",
        false => "wrong",
    })
}

/// Feeds a program, and collects what it writes meanwhile.
async fn run(pool: &Pool, script: &str, input: &str) -> Result<Output> {
    let mut command = pool.command("sh");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn_async()?;
    let stdin = child.stdin.take();
    let feed = async {
        // A program that does not read its input has closed the pipe.
        let _ = match stdin {
            Some(mut stdin) => stdin.write_all(input.as_bytes()).await,
            None => Ok(()),
        };
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    Ok(output?)
}
