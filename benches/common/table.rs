//! Printing the figures.

/// A table with a first column of names, and figures aligned to the right.
#[derive(Debug)]
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self(vec![header.iter().map(|cell| (*cell).to_owned()).collect()])
    }

    pub(crate) fn row(&mut self, name: &str, figures: impl IntoIterator<Item = String>) {
        self.0.push(std::iter::once(name.to_owned()).chain(figures).collect());
    }

    /// In Markdown, so that it can be pasted.
    pub(crate) fn print(&self) {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column| self.0.iter().filter_map(|row| row.get(column)).map(String::len).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default().max(3)).collect();
        for (number, row) in self.0.iter().enumerate() {
            println!("{}", line(row, &widths));
            if number == 0 {
                let rules = widths.iter().map(|width| "-".repeat(width + 1));
                let (first, rest) = (rules.clone().next().unwrap_or_default(), rules.skip(1));
                println!("|-{first}|{}:|", rest.collect::<Vec<_>>().join(":|"));
            }
        }
    }
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cell = |(column, width): (usize, &usize)| {
        let text = row.get(column).map_or("", String::as_str);
        if column == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") }
    };
    format!("| {} |", widths.iter().enumerate().map(cell).collect::<Vec<_>>().join(" | "))
}

/// Microseconds.
pub(crate) fn us(value: f64) -> String {
    number(value, if value < 10.0 { 1 } else { 0 })
}

/// A ratio.
pub(crate) fn times(value: f64) -> String {
    number(value, 2)
}

pub(crate) fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "-".to_owned() }
}

/// A figure from the medians, which counts, and the same from the minima, which tells how much of it is noise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) median: f64,
    pub(crate) min: f64,
}

/// Prints what a section is to reach, and what was seen.
pub(crate) fn target(words: &str, seen: Seen, bound: f64) {
    let verdict = match seen.median {
        median if !median.is_finite() => "not measured",
        median if median <= bound => "reached",
        _ => "missed",
    };
    println!("target: {words}: {}: {verdict} (by minima {})", times(seen.median), times(seen.min));
}
