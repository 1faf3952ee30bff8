//! A terminal of the program's own.

use crate::plan::Step;

/// The size of a terminal, in characters. The default is 24 rows of 80 columns.
///
/// 0 is a size too: programs take it as one that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PtySize {
    /// How many lines it has.
    pub rows: u16,
    /// How many characters there are in a line.
    pub columns: u16,
}

impl PtySize {
    /// A size of that many rows and columns.
    pub fn new(rows: u16, columns: u16) -> Self {
        Self { rows, columns }
    }
}

impl Default for PtySize {
    fn default() -> Self {
        Self::new(24, 80)
    }
}

/// Opens a terminal that belongs to `owner`, makes it the controlling one of a session that has none, and hands its
/// master to the host. It takes the place of streams later.
pub(crate) fn lower(size: PtySize, owner: u32, steps: &mut Vec<Step>) {
    let PtySize { rows, columns } = size;
    steps.extend([Step::OpenPty { rows, columns, owner }, Step::TakeTerminal, Step::HandPtyOver]);
}
