//! A start from an image that is in the store, and from a plain directory with the same files.

use belljar::{Image, Network, Rootfs, Sandbox};

use super::made::{Blob, directory, large, layout, packed, small, stored};
use crate::common::contender::{Contender, plain, present, sandbox};
use crate::common::measure::{Samples, interleave};
use crate::common::sections::{combine, find, seen};
use crate::common::table::{Table, target, us};
use crate::common::{Bench, Result};

const ROUNDS: usize = 400;

/// What a start from an image may take more than one from a directory, in microseconds.
const MORE: f64 = 100.0;

/// How much the size of an image may count.
const SAME: f64 = 1.1;

/// What the others are compared with.
const DIRECTORY: &str = "directory";
const EPHEMERAL: &str = "directory, ephemeral";

pub(crate) fn start(bench: &Bench) -> Result {
    let all = contenders(bench)?;
    let contenders = present(&all);
    let mut samples = vec![Samples::default(); contenders.len()];
    interleave(&contenders, ROUNDS, &mut samples)?;
    let of = |name: &str| seen(find(name, &contenders, &samples));
    let more = |name: &str| {
        let base = if name.ends_with("ephemeral") { EPHEMERAL } else { DIRECTORY };
        combine(of(name), of(base), |image, directory| image - directory)
    };
    let mut table = Table::new(&["µs", "median", "min", "more than directory", "by minima"]);
    for (contender, samples) in contenders.iter().zip(&samples) {
        let more = more(contender.name);
        table.row(contender.name, [us(samples.median()), us(samples.min()), signed(more.median), signed(more.min)]);
    }
    table.print();
    println!();
    for name in ["120 MB, 1 layer", "120 MB, 3 layers", "120 MB, 50 layers", "120 MB, 1 layer, ephemeral"] {
        target(&format!("{name}: at most 100 µs more than from a directory"), more(name), MORE);
    }
    for (large, small) in [("120 MB, 1 layer", "1 KB, 1 layer"), ("120 MB, 3 layers", "1 KB, 3 layers")] {
        let ratio = combine(of(large), of(small), |large, small| large / small);
        target(&format!("{large}: at most 1.1 times {small}"), ratio, SAME);
    }
    Ok(())
}

fn signed(value: f64) -> String {
    if value.is_finite() { format!("{value:+.0}") } else { "-".to_owned() }
}

fn contenders(bench: &Bench) -> Result<Vec<Contender>> {
    let tree = directory(bench, &large(bench)?)?;
    let large = packed(bench, &tree)?;
    let smalls: Vec<Blob> = (0..50).map(|number| small(bench, number)).collect::<Result<_>>()?;
    let image = |name: &str, lowest: &Blob, layers: usize| -> Result<Image> {
        let upper = smalls.iter().skip(1).take(layers - 1);
        let layers: Vec<Blob> = std::iter::once(lowest).chain(upper).cloned().collect();
        stored(&bench.path("start-store")?, &layout(bench, name, &layers)?)
    };
    // A network namespace has no part in this, and what it leaves the kernel to clean up drowns the rest.
    let of = |name, image: &Image| sandbox(name, Sandbox::from_image(image).network(Network::Host));
    let bare = |root: Rootfs| Sandbox::new().rootfs(root).network(Network::Host);
    let ephemeral = |name, root: Rootfs| sandbox(name, bare(root.ephemeral()));
    let large_1 = image("large-1", &large, 1)?;
    let small_1 = image("small-1", &smalls[0], 1)?;
    let large_50 = image("large-50", &large, 50)?;
    Ok(vec![
        plain(bench)?,
        sandbox(DIRECTORY, bare(Rootfs::dir(&tree))),
        of("1 KB, 1 layer", &small_1),
        of("120 MB, 1 layer", &large_1),
        of("1 KB, 3 layers", &image("small-3", &smalls[0], 3)?),
        of("120 MB, 3 layers", &image("large-3", &large, 3)?),
        of("1 KB, 50 layers", &image("small-50", &smalls[0], 50)?),
        of("120 MB, 50 layers", &large_50),
        ephemeral(EPHEMERAL, Rootfs::dir(&tree)),
        ephemeral("1 KB, 1 layer, ephemeral", Rootfs::image(&small_1)),
        ephemeral("120 MB, 1 layer, ephemeral", Rootfs::image(&large_1)),
        ephemeral("120 MB, 50 layers, ephemeral", Rootfs::image(&large_50)),
    ])
}
