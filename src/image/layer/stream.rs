//! The bytes of a layer: inflated, hashed and bounded, in blocks of 512.

use std::time::Instant;

use sha2::{Digest, Sha256};

use super::compression::{Inflated, Input};
use super::fault::{Checked, refuse};
use super::limits::UnpackLimits;

/// The unit of tar.
pub(super) const BLOCK: usize = 512;

pub(super) type Block = [u8; BLOCK];

/// How much is inflated at a time: whole blocks, so that none of them is in two parts.
const BUFFER: usize = 256 << 10;

/// From here on the ratio is looked at: before, one file of zeros is a large part of the layer.
const RATIO_FROM: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Stream {
    inflated: Inflated,
    buffer: Vec<u8>,
    /// The part of `buffer` that is still to be read.
    start: usize,
    end: usize,
    hash: Sha256,
    total: u64,
    limits: UnpackLimits,
    started: Instant,
}

impl Stream {
    pub(super) fn new(input: Input, limits: &UnpackLimits) -> Checked<Self> {
        Ok(Self {
            inflated: Inflated::new(input, limits)?,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            hash: Sha256::new(),
            total: 0,
            limits: limits.clone(),
            started: Instant::now(),
        })
    }

    /// Inflates more, if everything has been read. Without more, nothing is left to read.
    fn fill(&mut self) -> Checked<()> {
        if self.start < self.end {
            return Ok(());
        }
        self.start = 0;
        self.end = 0;
        let length = self.inflated.fill(&mut self.buffer)?;
        self.hash.update(&self.buffer[..length]);
        self.total += length as u64;
        self.check()?;
        self.end = length;
        Ok(())
    }

    fn check(&self) -> Checked<()> {
        let Self { total, limits, .. } = self;
        if *total > limits.bytes {
            refuse!("the layer has more than {} bytes, which is the limit", limits.bytes);
        }
        if *total > RATIO_FROM && *total / limits.ratio.max(1) > self.inflated.consumed() {
            refuse!("the layer inflates to more than {} times its size, which is the limit", limits.ratio);
        }
        if self.started.elapsed() > limits.time {
            refuse!("the layer takes longer than {:?}, which is the limit", limits.time);
        }
        Ok(())
    }

    /// The next at most `limit` bytes, at least one if `limit` is and the stream goes on.
    pub(super) fn chunk(&mut self, limit: u64) -> Checked<&[u8]> {
        self.fill()?;
        let start = self.start;
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(self.end - start);
        self.start += length;
        Ok(&self.buffer[start..start + length])
    }

    /// The next block, or `None` at the end of the stream.
    pub(super) fn block(&mut self) -> Checked<Option<Block>> {
        match self.chunk(BLOCK as u64)? {
            [] => Ok(None),
            bytes => match bytes.try_into() {
                Ok(block) => Ok(Some(block)),
                Err(_) => refuse!("the layer is cut short in a block"),
            },
        }
    }

    pub(super) fn skip(&mut self, mut length: u64) -> Checked<()> {
        while length > 0 {
            match self.chunk(length)?.len() as u64 {
                0 => refuse!("the layer is cut short"),
                skipped => length -= skipped,
            }
        }
        Ok(())
    }

    /// Reads `length` bytes, which are few, and their padding, which is zero: some readers take it for content.
    pub(super) fn padded(&mut self, length: usize) -> Checked<Vec<u8>> {
        let whole = length.next_multiple_of(BLOCK);
        let mut bytes = Vec::with_capacity(whole);
        while bytes.len() < whole {
            match self.chunk((whole - bytes.len()) as u64)? {
                [] => refuse!("the layer is cut short"),
                chunk => bytes.extend_from_slice(chunk),
            }
        }
        if bytes[length..].iter().any(|byte| *byte != 0) {
            refuse!("a long name, or the attributes, are followed by something else");
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Reads to the end of the stream: blocks of zeros, and nothing else.
    pub(super) fn zeros(&mut self) -> Checked<()> {
        while let Some(block) = self.block()? {
            if block != [0; BLOCK] {
                refuse!("something follows after the end of the archive");
            }
        }
        Ok(())
    }

    /// The digest and the number of all the bytes that have been inflated, and the number of bytes they came from.
    pub(super) fn end(self) -> ([u8; 32], u64, u64) {
        (self.hash.finalize().into(), self.total, self.inflated.consumed())
    }
}
