//! Drawing the figures, as SVG.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use crate::common::table::Seen;
use crate::common::{Bench, Result};

/// Where the plots go, if anywhere.
pub(crate) struct Plots {
    dir: Option<PathBuf>,
    machine: String,
}

impl Plots {
    pub(crate) fn new(dir: Option<&str>, bench: &Bench) -> Result<Self> {
        dir.map_or(Ok(()), fs::create_dir_all)?;
        Ok(Self { dir: dir.map(PathBuf::from), machine: bench.to_string().replace('\n', "; ") })
    }

    /// What a plot says of where its figures are from.
    pub(crate) fn machine(&self) -> &str {
        &self.machine
    }

    pub(crate) fn save(&self, name: &str, svg: &str) -> Result {
        let Some(dir) = &self.dir else { return Ok(()) };
        let path = dir.join(name).with_extension("svg");
        Ok(fs::write(&path, svg).map_err(|error| format!("{}: {error}", path.display()))?)
    }
}

/// One contender's figure.
pub(crate) struct Bar {
    name: &'static str,
    seen: Seen,
    label: String,
}

impl Bar {
    pub(crate) fn new(name: &'static str, seen: Seen, text: impl Fn(f64) -> String) -> Self {
        let label = match seen.min < seen.median {
            true => format!("{} (min {})", text(seen.median), text(seen.min)),
            false => text(seen.median),
        };
        Self { name, seen, label }
    }
}

/// A figure of each contender. On a logarithmic axis a bar's length would say nothing: there it is a line from the minimum
/// to the median.
pub(crate) struct Bars {
    pub(crate) title: &'static str,
    pub(crate) logarithmic: bool,
    pub(crate) bars: Vec<Bar>,
}

/// One contender's figures.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Figures of contenders by something that varies; both axes are logarithmic.
pub(crate) struct Lines {
    pub(crate) title: &'static str,
    pub(crate) lines: Vec<Line>,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 44.0;
const ROW: f64 = 26.0;
const HEIGHT: f64 = 320.0;

const OURS: &str = "#c2410c";
const OTHERS: [&str; 8] = ["#1d4ed8", "#0f766e", "#7e22ce", "#4d7c0f", "#be185d", "#475569", "#0369a1", "#854d0e"];
/// Those of belljar are told apart by the dashes of their lines.
const DASHES: [&str; 3] = ["", "7 3", "2 3"];

impl Bars {
    pub(crate) fn svg(&self, machine: &str) -> String {
        let largest = self.bars.iter().map(|bar| bar.seen.median).fold(f64::NAN, f64::max);
        let least = self.bars.iter().map(|bar| bar.seen.min).fold(f64::NAN, f64::min);
        let scale = match self.logarithmic {
            true => Scale::Logarithmic(10f64.powf(least.log10().floor()), 10f64.powf(largest.log10().ceil())),
            false => Scale::Linear(largest),
        };
        let bottom = TOP + ROW * self.bars.len() as f64;
        let x = |value| LEFT + scale.at(value) * (WIDTH - LEFT - RIGHT);
        let mut svg = start(self.title, bottom + 46.0);
        for tick in scale.ticks() {
            vertical(&mut svg, x(tick), bottom, &plain(tick));
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let (y, color) = (TOP + ROW * (row as f64 + 0.5), color(bar.name, row));
            text(&mut svg, LEFT - 10.0, y + 4.0, "end", bar.name);
            let (from, to) = (if self.logarithmic { x(bar.seen.min) } else { LEFT }, x(bar.seen.median));
            let width = if self.logarithmic { 3 } else { 14 };
            let line = format!(r#"<path d="M{from:.1} {y:.1}H{to:.1}" stroke="{color}" stroke-width="{width}"/>"#);
            svg.push_str(&line);
            if self.logarithmic {
                dot(&mut svg, to, y, color);
            }
            text(&mut svg, to + 10.0, y + 4.0, "start", &bar.label);
        }
        end(svg, bottom + 38.0, machine)
    }
}

impl Lines {
    pub(crate) fn svg(&self, machine: &str) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let values = || points().map(of);
            (values().fold(f64::NAN, f64::min), values().fold(f64::NAN, f64::max))
        };
        let (across, up) = (range(|point| point.0), range(|point| point.1));
        let across = Scale::Logarithmic(across.0, across.1);
        let up = Scale::Logarithmic(10f64.powf(up.0.log10().floor()), 10f64.powf(up.1.log10().ceil()));
        let bottom = TOP + HEIGHT;
        let left = LEFT - 60.0;
        let x = |value| left + across.at(value) * (WIDTH - left - RIGHT);
        let y = |value| bottom - up.at(value) * HEIGHT;
        let mut svg = start(self.title, bottom + 46.0);
        let mut ticks: Vec<f64> = points().map(|point| point.0).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        ticks.into_iter().for_each(|tick| vertical(&mut svg, x(tick), bottom, &plain(tick)));
        for tick in up.ticks() {
            horizontal(&mut svg, left, y(tick), &plain(tick));
        }
        let mut names: Vec<(f64, &str, &str)> = Vec::new();
        for (row, line) in self.lines.iter().enumerate() {
            let color = color(line.name, row);
            let mut path = String::new();
            for (number, point) in line.points.iter().enumerate() {
                let verb = if number == 0 { 'M' } else { 'L' };
                // Writing to a string does not fail.
                let _ = write!(path, "{verb}{:.1} {:.1}", x(point.0), y(point.1));
                dot(&mut svg, x(point.0), y(point.1), color);
            }
            let dash = dashes(line.name);
            let style = format!(r#"fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}""#);
            let _ = write!(svg, r#"<path d="{path}" {style}/>"#);
            names.extend(line.points.last().map(|point| (y(point.1), line.name, color)));
        }
        beside(&mut svg, names);
        end(svg, bottom + 38.0, machine)
    }
}

/// From values to the share of an axis.
enum Scale {
    /// From zero to this.
    Linear(f64),
    Logarithmic(f64, f64),
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        match self {
            Self::Linear(end) => value / end,
            Self::Logarithmic(start, end) => (value / start).ln() / (end / start).ln(),
        }
    }

    fn ticks(&self) -> Vec<f64> {
        match self {
            Self::Linear(end) => {
                let step = 10f64.powf(end.log10().floor()) / 2.0;
                (0..=20).map(|number| f64::from(number) * step).take_while(|tick| tick <= end).collect()
            }
            Self::Logarithmic(start, end) => {
                let decades = (0..=12).map(|decade| start * 10f64.powi(decade));
                decades.take_while(|tick| *tick <= end * 1.001).collect()
            }
        }
    }
}

fn color(name: &str, row: usize) -> &'static str {
    match name.starts_with("belljar") {
        true => OURS,
        false => OTHERS.get(row % OTHERS.len()).copied().unwrap_or(OURS),
    }
}

fn dashes(name: &str) -> &'static str {
    let ours = [crate::peers::POOL, crate::peers::PREPARED, crate::peers::ONE_SHOT];
    let index = ours.iter().position(|other| *other == name).unwrap_or_default();
    DASHES.get(index).copied().unwrap_or_default()
}

/// Names at the ends of lines, moved apart where they would overlap.
fn beside(svg: &mut String, mut names: Vec<(f64, &str, &str)>) {
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = TOP;
    for (y, name, color) in names {
        let y = y.max(free);
        free = y + 15.0;
        let x = WIDTH - RIGHT + 10.0;
        let _ = write!(svg, r#"<text x="{x}" y="{:.1}" fill="{color}">{name}</text>"#, y + 4.0);
    }
}

fn start(title: &str, height: f64) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" fill="#111">
<rect width="100%" height="100%" fill="#fff"/>
<text x="16" y="24" font-size="15" font-weight="bold">{title}</text>
"##
    )
}

fn end(mut svg: String, y: f64, machine: &str) -> String {
    let _ = write!(svg, r##"<text x="16" y="{y}" font-size="10" fill="#666">{machine}</text></svg>"##);
    // A line an element: changes to a plot can be read.
    svg.replace("/><", "/>\n<").replace("</text><", "</text>\n<") + "\n"
}

fn vertical(svg: &mut String, x: f64, bottom: f64, label: &str) {
    let _ = write!(svg, r##"<path d="M{x:.1} {TOP}V{bottom:.1}" stroke="#ddd"/>"##);
    text(svg, x, bottom + 16.0, "middle", label);
}

fn horizontal(svg: &mut String, left: f64, y: f64, label: &str) {
    let _ = write!(svg, r##"<path d="M{left:.1} {y:.1}H{:.1}" stroke="#ddd"/>"##, WIDTH - RIGHT);
    text(svg, left - 8.0, y + 4.0, "end", label);
}

fn dot(svg: &mut String, x: f64, y: f64, color: &str) {
    let _ = write!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{color}"/>"#);
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

/// A round number, with a space between the thousands.
fn plain(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut spaced = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let left = digits.len() - index;
        if index > 0 && left % 3 == 0 && digits.len() > 4 {
            spaced.push(' ');
        }
        spaced.push(digit);
    }
    spaced
}
