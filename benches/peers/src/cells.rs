//! The memory of a sandbox that waits in a pool, as the kernel charges it to a control group: pages, page tables, stacks and
//! the kernel's own structures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use belljar::Network;

use crate::common::contender::host_policy;
use crate::common::table::{Seen, Table, number, target};
use crate::common::{Bench, Result};
use crate::plot::{Bar, Bars, Plots};
use crate::usage::wait_for_all;

/// Has this program fill a group with sandboxes or processes that wait.
pub(crate) const FLAG: &str = "--cells";

const KINDS: [&str; 3] = ["plain process", BESIDE, "belljar pool"];
/// What has no network namespace of its own.
const BESIDE: &str = "pool, host's net";

/// The difference between so many and three times as many is what counts: the kernel charges to a group in larger pieces, and
/// some things are there once.
const FEW: usize = 32;
const MORE: usize = 64;

pub(crate) fn cells(_bench: &Bench, plots: &Plots) -> Result {
    let Some(parent) = own_group()? else {
        println!("left out: no control group of this process counts memory, or it may make none below it");
        return Ok(());
    };
    let mut table = Table::new(&["KiB each, idle", "memory"]);
    let mut bars = Vec::new();
    for kind in KINDS {
        let group = parent.join(format!("belljar-peers-{}", std::process::id()));
        fs::create_dir(&group)?;
        let output = Command::new(std::env::current_exe()?).args([FLAG, kind]).arg(&group).output();
        remove(&group)?;
        let output = output?;
        let text = String::from_utf8(output.stdout)?;
        let kib: f64 = text.trim().parse().map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let seen = Seen { median: kib, min: kib };
        table.row(kind, [number(kib, 0)]);
        bars.push(Bar::new(kind, seen, |kib| number(kib, 0)));
        if kind == "belljar pool" {
            table.print();
            println!();
            target("KiB of a sandbox that waits, at most 100", seen, 100.0);
        }
    }
    plots.save("cells", &Bars { title: "Memory of one that waits, KiB", logarithmic: false, bars }.svg(plots.machine()))
}

/// Prints how many KiB one more of these takes.
pub(crate) fn alone(kind: &str, group: &Path) -> Result {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())?;
    let bench = Bench::new(false)?;
    // What is taken once, by the allocator and by the kernel, is taken here.
    drop(waiting(&bench, kind, FEW)?);
    wait_for_all()?;
    let few = waiting(&bench, kind, FEW)?;
    let before = settled(group)?;
    let more = waiting(&bench, kind, MORE)?;
    println!("{}", (settled(group)? - before) / 1024.0 / MORE as f64);
    drop((few, more));
    wait_for_all()
}

/// Some that wait: a pool, or processes that read.
fn waiting(bench: &Bench, kind: &str, count: usize) -> Result<Box<dyn std::any::Any>> {
    match kind {
        "belljar pool" => return Ok(Box::new(host_policy(bench)?.prepare()?.pool_by_hand(count)?)),
        BESIDE => return Ok(Box::new(host_policy(bench)?.network(Network::Host).prepare()?.pool_by_hand(count)?)),
        _ => {}
    }
    let program = reader(bench)?;
    let start = || Command::new(&program).stdin(Stdio::piped()).spawn();
    // Their standard input ends when the handles are dropped, and so do they.
    Ok(Box::new((0..count).map(|_| start()).collect::<std::io::Result<Vec<Child>>>()?))
}

/// A static program without a library that reads from its standard input, and exits.
fn reader(bench: &Bench) -> Result<PathBuf> {
    let (code, program) = (bench.path("reader.c")?, bench.path("reader")?);
    if !program.exists() {
        fs::write(&code, include_str!("reader.c"))?;
        let options = ["-O1", "-static", "-nostdlib", "-o"];
        if !Command::new("cc").args(options).args([&program, &code]).status()?.success() {
            return Err("cc can't compile a static program".into());
        }
    }
    Ok(program)
}

/// The group's memory, once the kernel has freed what it frees later.
fn settled(group: &Path) -> Result<f64> {
    sleep(Duration::from_millis(500));
    let read = |name: &str| fs::read_to_string(group.join(name));
    let text = read("memory.current").or_else(|_| read("memory.usage_in_bytes"))?;
    Ok(text.trim().parse()?)
}

/// The group of this process, in the hierarchy that counts memory, if groups can be made there.
fn own_group() -> Result<Option<PathBuf>> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let hierarchy = match controllers {
            "memory" => "/sys/fs/cgroup/memory",
            "" => "/sys/fs/cgroup",
            _ => continue,
        };
        let group = PathBuf::from(hierarchy).join(path.trim_start_matches('/'));
        let trial = group.join(format!("belljar-peers-trial-{}", std::process::id()));
        if fs::create_dir(&trial).is_ok() {
            let counts = ["memory.current", "memory.usage_in_bytes"].iter().any(|file| trial.join(file).exists());
            fs::remove_dir(&trial)?;
            if counts {
                return Ok(Some(group));
            }
        }
    }
    Ok(None)
}

/// Removes a group whose last processes are about to be gone.
fn remove(group: &Path) -> Result {
    for _ in 0..50 {
        if fs::remove_dir(group).is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(fs::remove_dir(group)?)
}
