//! What a layer is compressed with, by its first bytes, and its inflation.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::fault::{Checked, Fault};
use super::limits::UnpackLimits;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const XZ: &[u8] = b"\xfd7zXZ\0";
const BZIP2: &[u8] = b"BZh";

/// Where a layer comes from.
pub(super) type Input = Box<dyn Read + Send>;

/// The bytes of a layer as they come, and how many have come.
struct Counted {
    input: Input,
    read: u64,
    /// How many may come, and until when: a decoder may read on and on, and give nothing.
    most: u64,
    started: Instant,
    time: Duration,
}

/// How much larger a layer may be than what it inflates to: headers of empty members and frames, and padding.
const SLACK: u64 = 16 << 20;

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.started.elapsed() > self.time {
            return Err(invalid(format!("the layer takes longer than {:?}, which is the limit", self.time)));
        }
        if self.read > self.most {
            return Err(invalid("the layer as it is stored is larger than the limit"));
        }
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(length) => {
                    self.read += length as u64;
                    return Ok(length);
                }
            }
        }
    }
}

type Source = BufReader<Counted>;

/// A layer, inflated.
pub(super) struct Inflated(Format);

enum Format {
    Plain(Source),
    Gzip(Box<Gzip>),
    Zstd(Box<Zstd>),
}

impl fmt::Debug for Inflated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Format::Plain(_) => "Plain",
            Format::Gzip(_) => "Gzip",
            Format::Zstd(_) => "Zstd",
        })
    }
}

impl Inflated {
    /// Looks at the first bytes of `input`.
    pub(super) fn new(input: Input, limits: &UnpackLimits) -> Checked<Self> {
        let window = limits.zstd_window;
        let mut magic = Vec::new();
        let mut input = input;
        input.by_ref().take(XZ.len() as u64).read_to_end(&mut magic)?;
        let is = |other: &[u8]| magic.starts_with(other);
        let (gzip, zstd) = (is(GZIP), is(ZSTD) || magic.get(..4).is_some_and(is_skippable));
        if let Some((name, _)) = [("xz", XZ), ("bzip2", BZIP2)].into_iter().find(|(_, other)| is(other)) {
            let fault = Fault::new(format!("it is compressed with {name}, which no image format has"));
            return Err(fault.with_hint("Compress it with gzip or zstd instead, or not at all."));
        }
        if magic.is_empty() {
            return Err(Fault::new("it is empty"));
        }
        let input = Box::new(io::Cursor::new(magic).chain(input));
        let most = limits.bytes.saturating_add(SLACK);
        let counted = Counted { input, read: 0, most, started: Instant::now(), time: limits.time };
        let source = BufReader::with_capacity(64 << 10, counted);
        Ok(Self(match (gzip, zstd) {
            (true, _) => Format::Gzip(Box::new(Gzip { member: Some(GzDecoder::new(source)), ended: false })),
            (_, true) => Format::Zstd(Box::new(Zstd { source, frame: FrameDecoder::new(), window })),
            _ => Format::Plain(source),
        }))
    }

    /// Fills `buffer` as far as the layer goes.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let length = match &mut self.0 {
                Format::Plain(source) => source.read(rest),
                Format::Gzip(gzip) => gzip.read(rest),
                Format::Zstd(zstd) => zstd.read(rest),
            }?;
            if length == 0 {
                break;
            }
            filled += length;
        }
        Ok(filled)
    }

    /// How many bytes of the layer have been read: compressed ones, if it is.
    pub(super) fn consumed(&self) -> u64 {
        let source = match &self.0 {
            Format::Plain(source) => Some(source),
            Format::Gzip(gzip) => gzip.member.as_ref().map(GzDecoder::get_ref),
            Format::Zstd(zstd) => Some(&zstd.source),
        };
        source.map_or(0, |source| source.get_ref().read)
    }
}

fn invalid(cause: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause.into())
}

/// Members of gzip, one after the other, as RFC 1952 has them. Zeros may follow the last one, as gzip(1) has it: tapes
/// are padded. Anything else may not.
struct Gzip {
    /// `None` never, but while one member makes place for the next.
    member: Option<GzDecoder<Source>>,
    ended: bool,
}

impl Gzip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let (Some(member), false) = (&mut self.member, self.ended) {
            match member.read(buffer).map_err(in_gzip)? {
                0 => self.next_member()?,
                length => return Ok(length),
            }
        }
        Ok(0)
    }

    /// Goes to the next member, if there is one.
    fn next_member(&mut self) -> io::Result<()> {
        let Some(mut member) = self.member.take() else { return Ok(()) };
        self.ended = match member.get_mut().fill_buf()?.first() {
            None => true,
            Some(0) => rest_is_zero(member.get_mut()).map(|()| true)?,
            Some(byte) if *byte == GZIP[0] => false,
            Some(_) => return Err(invalid("gzip: something else follows after the end")),
        };
        self.member = Some(if self.ended { member } else { GzDecoder::new(member.into_inner()) });
        Ok(())
    }
}

fn in_gzip(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => io::Error::new(error.kind(), format!("gzip: {error}")),
    }
}

fn rest_is_zero(source: &mut Source) -> io::Result<()> {
    loop {
        let bytes = source.fill_buf()?;
        let length = bytes.len();
        if length == 0 {
            return Ok(());
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(invalid("gzip: something else follows after the end"));
        }
        source.consume(length);
    }
}

/// Frames of zstd, one after the other, and frames to skip between them, as RFC 8878 has them. Nothing else may follow.
struct Zstd {
    source: Source,
    frame: FrameDecoder,
    window: u64,
}

impl Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            while self.frame.can_collect() < buffer.len() && !self.frame.is_finished() {
                let wanted = BlockDecodingStrategy::UptoBytes(buffer.len() - self.frame.can_collect());
                self.frame.decode_blocks(&mut self.source, wanted).map_err(in_zstd)?;
            }
            let length = self.frame.read(buffer)?;
            if length > 0 || !self.next_frame()? {
                return Ok(length);
            }
        }
    }

    /// Goes to the next frame, if there is one.
    fn next_frame(&mut self) -> io::Result<bool> {
        if let Some(told) = self.frame.get_checksum_from_data() {
            if self.frame.get_calculated_checksum() != Some(told) {
                return Err(invalid("zstd: a checksum does not match"));
            }
        }
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let mut magic = [0; 4];
            self.source.read_exact(&mut magic)?;
            if is_skippable(&magic) {
                self.skip()?;
            } else if magic == ZSTD {
                return self.start().map(|()| true);
            } else {
                return Err(invalid("zstd: something else follows after the end"));
            }
        }
    }

    fn skip(&mut self) -> io::Result<()> {
        let mut length = [0; 4];
        self.source.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        match io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? {
            skipped if skipped == length => Ok(()),
            _ => Err(invalid("zstd: it is cut short")),
        }
    }

    /// Reads the header of a frame itself, since the decoder takes the memory for a window of any size.
    fn start(&mut self) -> io::Result<()> {
        let mut header = ZSTD.to_vec();
        let mut next = |length: usize| -> io::Result<u64> {
            let mut bytes = [0; 8];
            self.source.read_exact(&mut bytes[..length])?;
            header.extend(&bytes[..length]);
            Ok(u64::from_le_bytes(bytes))
        };
        let descriptor = next(1)?;
        let single = descriptor & 0x20 != 0;
        let exponent_and_mantissa = if single { 0 } else { next(1)? };
        if next([0, 1, 2, 4][(descriptor & 3) as usize])? != 0 {
            return Err(invalid("zstd: it needs a dictionary, and an image has none"));
        }
        let content_size = match (descriptor >> 6, single) {
            (0, false) => 0,
            (0, true) => next(1)?,
            (1, _) => next(2)? + 256,
            (2, _) => next(4)?,
            _ => next(8)?,
        };
        let base = 1 << (10 + (exponent_and_mantissa >> 3));
        let window = if single { content_size } else { base + base / 8 * (exponent_and_mantissa & 7) };
        if window > self.window {
            let cause = format!("zstd: it needs a window of {window} bytes, and the limit is {}", self.window);
            return Err(invalid(cause));
        }
        self.frame.init(header.as_slice()).map_err(in_zstd)
    }
}

fn in_zstd(error: ruzstd::decoding::errors::FrameDecoderError) -> io::Error {
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(cause) = source {
        if let Some(errno) = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(errno);
        }
        source = cause.source();
    }
    invalid(format!("zstd: {error}"))
}

/// Whether `magic` starts a frame of zstd that is to be skipped.
fn is_skippable(magic: &[u8]) -> bool {
    matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}
