//! Unpacking a large layer, side by side with tar(1) as the same user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use belljar::{Image, Store};

use super::cache::sync_disks;
use super::made::{Blob, large, layout, recompressed};
use crate::common::host::children_time;
use crate::common::measure::{Samples, in_turns};
use crate::common::sections::{combine, seen};
use crate::common::table::{Seen, Table, number, target, times};
use crate::common::{Bench, Result};

const ROUNDS: usize = 5;

/// What makes this program the one that unpacks.
const CHILD: &str = "--unpack";

/// How much memory unpacking may take, in MiB.
const MEMORY: f64 = 64.0;

/// How much longer than tar it may take.
const LONGER: f64 = 1.3;

/// The process that unpacks an image into a new store, and tells the most memory that it had.
pub(crate) fn as_child() -> Option<ExitCode> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [flag, image, store] = args.as_slice() else { return None };
    if flag != CHILD {
        return None;
    }
    match unpack_here(Path::new(image), Path::new(store)) {
        Ok(peak) => println!("{peak}"),
        Err(error) => {
            eprintln!("{error}");
            return Some(ExitCode::FAILURE);
        }
    }
    Some(ExitCode::SUCCESS)
}

fn unpack_here(image: &Path, store: &Path) -> Result<u64> {
    Store::open(store)?.unpack(&Image::open(image)?)?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("there is no VmHWM")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}

/// One way to unpack one kind of layer.
struct Way {
    name: String,
    /// The command without the directory, which is made for each run.
    command: fn(&Path, &Path) -> Result<Command>,
    source: PathBuf,
    wall: Samples,
    busy: Samples,
    /// In KiB; 0 for tar.
    peak: u64,
}

pub(crate) fn unpack(bench: &Bench) -> Result {
    let large = large(bench)?;
    let [plain, zstd] = recompressed(bench, &large)?;
    let kinds = [("gzip", large, "120 MB in gzip"), ("zstd", zstd, "in zstd"), ("plain", plain, "without compression")];
    let mut ways = Vec::new();
    for (kind, blob, _) in &kinds {
        ways.extend(all(bench, kind, blob)?);
    }
    // Trees stay to the end of the run: ext4 does not give the number of a file again for minutes after its removal, and
    // searches ever longer for one that it may give.
    let mut made = 0;
    in_turns(ways.len(), ROUNDS, |index| {
        made += 1;
        let dir = bench.path(&format!("unpacked-{made}"))?;
        ways.get_mut(index).map_or(Ok(()), |way| way.run(&dir))
    })?;
    let mut table = Table::new(&["ms", "median", "min", "processors, median", "MiB at most"]);
    for way in &ways {
        let peak = if way.peak > 0 { number(way.peak as f64 / 1024.0, 1) } else { "-".to_owned() };
        let figures = [way.wall.median(), way.wall.min(), way.busy.median()].map(|us| number(us / 1000.0, 0));
        table.row(&way.name, figures.into_iter().chain([peak]));
    }
    table.print();
    println!();
    for ((_, _, words), ways) in kinds.iter().zip(ways.chunks(3)) {
        let [ours, tar, synced] = ways else { continue };
        let ratio = |ours, others| combine(seen(Some(ours)), seen(Some(others)), |ours, other| ours / other);
        target(&format!("{words}: at most 1.3 times tar"), ratio(&ours.wall, &tar.wall), LONGER);
        for (words, ratio) in [
            ("of tar and sync", ratio(&ours.wall, &synced.wall)),
            ("in processors' time", ratio(&ours.busy, &tar.busy)),
        ] {
            println!("        {words}: {} (by minima {})", times(ratio.median), times(ratio.min));
        }
    }
    let most = ways.iter().map(|way| way.peak as f64 / 1024.0).fold(0.0, f64::max);
    target("the most memory of the process that unpacks, at most 64 MiB", Seen { median: most, min: most }, MEMORY);
    Ok(())
}

/// The ways to unpack a layer.
fn all(bench: &Bench, kind: &str, blob: &Blob) -> Result<[Way; 3]> {
    let image = layout(bench, &format!("{kind}-image"), std::slice::from_ref(blob))?;
    let way = |name: String, command, source| Way {
        name,
        command,
        source,
        wall: Samples::default(),
        busy: Samples::default(),
        peak: 0,
    };
    Ok([
        way(format!("belljar, {kind}"), ours, image),
        way(format!("tar, {kind}"), tar, blob.file.clone()),
        way(format!("tar and sync, {kind}"), tar_and_sync, blob.file.clone()),
    ])
}

fn ours(image: &Path, dir: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(CHILD).arg(image).arg(dir);
    Ok(command)
}

/// tar, which finds out by itself what a layer is compressed with.
fn tar(layer: &Path, dir: &Path) -> Result<Command> {
    shell("tar -C \"$1\" -xf \"$2\"", layer, dir)
}

/// The same as a store has it in the end: on the disk.
fn tar_and_sync(layer: &Path, dir: &Path) -> Result<Command> {
    shell("tar -C \"$1\" -xf \"$2\" && sync -f \"$1\"", layer, dir)
}

fn shell(script: &str, layer: &Path, dir: &Path) -> Result<Command> {
    fs::create_dir(dir)?;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(dir).arg(layer);
    Ok(command)
}

impl Way {
    /// One run, from what is in memory onto a disk that has nothing else to do.
    fn run(&mut self, dir: &Path) -> Result {
        let mut command = (self.command)(&self.source, dir)?;
        sync_disks();
        let (start, busy) = (Instant::now(), children_time()?);
        let output = command.output()?;
        let (wall, busy) = (start.elapsed(), children_time()?.saturating_sub(busy));
        if !output.status.success() {
            return Err(format!("{}: {}", self.name, String::from_utf8_lossy(&output.stderr)).into());
        }
        self.wall.push(wall);
        self.busy.push(busy);
        self.peak = self.peak.max(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default());
        Ok(())
    }
}
