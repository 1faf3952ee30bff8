//! Many sandboxes of one image at once: what they take of disk and memory.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use belljar::{Child, Image, Rootfs, Sandbox, Stdio};

use super::cache::{forget, resident, sync_disks};
use super::made::{directory, files, large, layout, packed, small, stored};
use crate::common::host::{available_memory, meminfo};
use crate::common::table::{Seen, Table, number, target};
use crate::common::{Bench, Result};

const MANY: usize = 100;

/// What each sandbox does: reads most of the image, says so, and waits.
const SCRIPT: &str = "cat /usr/bin/* /usr/lib/*/*.so* > /dev/null; echo read; read line";

const MIB: f64 = (1 << 20) as f64;

/// How much more than one copy still counts as one: other programs open and close the same pages.
const ONE: f64 = 1.02;

/// What there is at some moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    disk: f64,
    resident: f64,
    cached: f64,
    available: f64,
}

pub(crate) fn share(bench: &Bench) -> Result {
    let lowest = packed(bench, &directory(bench, &large(bench)?)?)?;
    let store = bench.path("share-store")?;
    let image = stored(&store, &layout(bench, "shared", &[lowest, small(bench, 1)?])?)?;
    sync_disks();
    each_file(&store, &mut |file| {
        forget(file);
        Ok(())
    })?;
    let mut table = Table::new(&["MiB", "store on disk", "store in page cache", "all page cache", "each sandbox"]);
    let mut seen = Vec::new();
    let mut children = Vec::new();
    for count in [0, 1, MANY] {
        while children.len() < count {
            children.push(begin(&image)?);
        }
        children.iter_mut().try_for_each(Reader::ready)?;
        let now = Taken::look(&store)?;
        let first: &Taken = seen.first().unwrap_or(&now);
        // What the page cache has can be taken back, and counts as available.
        let each = if count == MANY { (first.available - now.available) / count as f64 / MIB } else { f64::NAN };
        let figures = [now.disk, now.resident, now.cached].map(|bytes| number(bytes / MIB, 1));
        table.row(&format!("{count} at once"), figures.into_iter().chain([number(each, 2)]));
        seen.push(now);
    }
    table.print();
    println!();
    let [none, one, many] = seen.as_slice() else { return Ok(()) };
    if one.resident <= none.resident {
        return Err("a sandbox that reads the image does not bring it into the page cache".into());
    }
    let says = |words: &str, copies: f64| target(words, Seen { median: copies, min: copies }, ONE);
    says("100 at once on disk, at most 1.02 copies of the image", many.disk / none.disk);
    says("100 at once in page cache, at most 1.02 times one", many.resident / one.resident);
    println!(
        "        all page cache of the machine: {} MiB more than with one",
        number((many.cached - one.cached) / MIB, 1)
    );
    Ok(())
}

/// A sandbox that reads the image.
struct Reader {
    child: Child,
    /// Told once that everything is read.
    ready: bool,
}

fn begin(image: &Image) -> Result<Reader> {
    let sandbox = Sandbox::from_image(image).rootfs(Rootfs::image(image).ephemeral());
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(Reader { child: command.spawn()?, ready: false })
}

impl Reader {
    fn ready(&mut self) -> Result {
        if self.ready {
            return Ok(());
        }
        let mut line = String::new();
        let stdout = self.child.stdout.as_mut().ok_or("stdout is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        self.ready = line == "read\n";
        if self.ready { Ok(()) } else { Err(format!("a sandbox says {line:?}").into()) }
    }
}

impl Taken {
    fn look(store: &Path) -> Result<Self> {
        sync_disks();
        let mut taken =
            Self { cached: meminfo("Cached:")? as f64, available: available_memory()? as f64, ..Self::default() };
        each_file(store, &mut |file| {
            taken.disk += file.metadata()?.blocks() as f64 * 512.0;
            taken.resident += resident(file)? as f64;
            Ok(())
        })?;
        Ok(taken)
    }
}

/// Runs `visit` for the regular files of a store that the caller may read.
fn each_file(store: &Path, visit: &mut dyn FnMut(&File) -> Result) -> Result {
    files(store, &mut |path| match File::open(path) {
        Ok(file) => visit(&file),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error.into()),
    })
}
