//! Reads the entries of a layer, one after the other.

use std::io::Read;

use super::entry::{Entry, Kind, Parts};
use super::fault::{Checked, Fault, refuse};
use super::header::Header;
use super::limits::UnpackLimits;
use super::pax::{self, Pax};
use super::stream::{BLOCK, Stream};
use crate::error::Result;

/// How long a long name, or an extended header, may be: as in Go's archive/tar, which engines read with.
const EXTENSION: u64 = 1 << 20;

/// A layer that is being read.
///
/// Memory is bounded, whatever is in the layer. After an error it must not be read on.
#[derive(Debug)]
pub(crate) struct LayerReader {
    stream: Stream,
    limits: UnpackLimits,
    /// How many entries have been read; the number of the current one.
    index: u64,
    /// How many headers have been read that are none of an entry, but for all that follow.
    globals: u64,
    ended: bool,
    /// The name of the current entry, as it is in the layer.
    name: Vec<u8>,
    /// What is to be read of the current file, and then of its padding.
    data: u64,
    padding: u64,
}

/// What a whole layer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    /// The sha256 of the layer, inflated: its `diff_id`.
    pub(crate) sha256: [u8; 32],
    /// Its size, inflated.
    pub(crate) bytes: u64,
    /// Its size as it came.
    pub(crate) compressed: u64,
    pub(crate) entries: u64,
}

impl LayerReader {
    pub(crate) fn new(input: impl Read + Send + 'static, limits: &UnpackLimits) -> Result<Self> {
        limits.check()?;
        let stream = Stream::new(Box::new(input), limits).map_err(|fault| fault.told("layer".to_owned()))?;
        let limits = limits.clone();
        Ok(Self { stream, limits, index: 0, globals: 0, ended: false, name: Vec::new(), data: 0, padding: 0 })
    }

    /// The next entry, or `None` at the end of the archive. What has not been read of the data before is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.skip().map_err(|fault| self.here(fault))?;
        self.index += 1;
        self.name.clear();
        let entry = self.entry().map_err(|fault| self.here(fault))?;
        match entry.as_ref().map(|entry| &entry.kind) {
            Some(Kind::File { size }) => {
                self.data = *size;
                self.padding = size.next_multiple_of(BLOCK as u64) - size;
            }
            Some(_) => {}
            None => {
                self.ended = true;
                self.index -= 1;
            }
        }
        Ok(entry)
    }

    /// The next bytes of the current file: at least one, but at its end and for anything else than a file.
    pub(crate) fn data(&mut self) -> Result<&[u8]> {
        if self.data == 0 {
            return Ok(&[]);
        }
        match self.stream.chunk(self.data) {
            Ok([]) => Err(Fault::new("the layer is cut short").at(self.index, &self.name)),
            Ok(chunk) => {
                self.data -= chunk.len() as u64;
                Ok(chunk)
            }
            Err(fault) => Err(fault.at(self.index, &self.name)),
        }
    }

    /// Reads what is left, entries included, and tells what the whole layer is.
    pub(crate) fn finish(mut self) -> Result<Totals> {
        while self.next_entry()?.is_some() {}
        let (sha256, bytes, compressed) = self.stream.end();
        Ok(Totals { sha256, bytes, compressed, entries: self.index })
    }

    fn here(&self, fault: Fault) -> crate::Error {
        fault.at(self.index, &self.name)
    }

    /// Goes to the end of the current file. Its padding may be missing at the end of the stream: `umoci insert` and
    /// others who forget to close an archive leave it out, and engines read it.
    fn skip(&mut self) -> Checked<()> {
        self.stream.skip(std::mem::take(&mut self.data))?;
        while self.padding > 0 {
            match self.stream.chunk(self.padding)?.len() as u64 {
                0 => break,
                length => self.padding -= length,
            }
        }
        Ok(())
    }

    fn entry(&mut self) -> Checked<Option<Entry>> {
        let Some(parts) = self.parts()? else { return Ok(None) };
        self.name = parts.name();
        if self.index + self.globals > self.limits.entries {
            refuse!("the layer has more than {} entries, which is the limit", self.limits.entries);
        }
        parts.check(&self.limits).map(Some)
    }

    /// Reads one header, and those before it that are about it.
    fn parts(&mut self) -> Checked<Option<Parts>> {
        let (mut pax, mut long_name, mut long_link) = (None, None, None);
        let globals = self.globals;
        loop {
            let begun = pax.is_some() || long_name.is_some() || long_link.is_some();
            let header = match self.header()? {
                // Python stops at a global header without one, too.
                None if begun || self.globals > globals => {
                    refuse!("the layer ends before the entry that a long name or attributes are for")
                }
                None => return Ok(None),
                Some(header) => header,
            };
            match header.kind() {
                b'g' if !begun => self.global(&header)?,
                b'x' if !begun => pax = Some(Pax::new(&self.extension(&header)?, &self.limits)?),
                b'L' if pax.is_none() && long_name.is_none() => long_name = Some(self.long(&header)?),
                b'K' if pax.is_none() && long_link.is_none() => long_link = Some(self.long(&header)?),
                // Which of them is in force, and for what, is something that readers differ in.
                b'g' | b'x' | b'L' | b'K' => refuse!("its long names and attributes contradict each other"),
                _ => return Ok(Some(Parts { header, pax: pax.unwrap_or_default(), long_name, long_link })),
            }
        }
    }

    /// The next header, or `None` at the end: a block of zeros, and nothing else behind it, or the end of the stream
    /// where a header could be. The digest tells a layer that has been cut off there.
    fn header(&mut self) -> Checked<Option<Header>> {
        match self.stream.block()? {
            None => Ok(None),
            Some(block) if block == [0; BLOCK] => self.stream.zeros().map(|()| None),
            Some(block) => {
                // Until it is known better.
                self.name = block[..100].split(|byte| *byte == 0).next().unwrap_or_default().to_owned();
                Header::new(block).map(Some)
            }
        }
    }

    fn extension(&mut self, header: &Header) -> Checked<Vec<u8>> {
        match header.size {
            size @ ..=EXTENSION => self.stream.padded(size as usize),
            size => refuse!("it has a long name or attributes of {size} bytes, and the limit is {EXTENSION}"),
        }
    }

    /// Reads a long name of GNU tar: text, with a zero byte at its end, as a rule.
    fn long(&mut self, header: &Header) -> Checked<Vec<u8>> {
        let mut name = self.extension(header)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        if end == 0 || name[end..].iter().any(|byte| *byte != 0) {
            refuse!("it has a long name that is none");
        }
        name.truncate(end);
        Ok(name)
    }

    fn global(&mut self, header: &Header) -> Checked<()> {
        self.globals += 1;
        if self.globals > self.limits.entries {
            refuse!("the layer has more than {} headers, which is the limit", self.limits.entries);
        }
        pax::check_global(&self.extension(header)?)
    }
}
