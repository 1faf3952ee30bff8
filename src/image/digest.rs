//! Digests: the names of what an image is made of, and the proof that content has the name that it goes by.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

use super::{invalid, shown};
use crate::error::{Error, Layer, Result};

/// The name of some content: `sha256:` or `sha512:`, and the hash in lower case hexadecimal digits, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(Box<str>);

/// The hash functions, with the number of digits that their digests have.
const ALGORITHMS: [(&str, usize); 2] = [("sha256", 64), ("sha512", 128)];

impl Digest {
    /// Names `content` by its SHA-256.
    pub(crate) fn of(content: &[u8]) -> Self {
        Hasher::Sha256(Sha256::new_with_prefix(content)).digest()
    }

    /// Names what has been hashed.
    pub(super) fn sha256(hash: &[u8]) -> Self {
        let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
        Digest("sha256:".chars().chain(digits).collect())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The function and the digits: both are plain names of files.
    pub(crate) fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or(("", &self.0))
    }

    /// Tells whether `content` has this name.
    pub(crate) fn names(&self, content: &[u8]) -> bool {
        let mut hasher = Hasher::like(self);
        hasher.update(content);
        hasher.digest() == *self
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let known = text.split_once(':').is_some_and(|(algorithm, digits)| {
            ALGORITHMS.contains(&(algorithm, digits.len())) && digits.bytes().all(is_digit)
        });
        if !known {
            return Err(invalid("digest", format!("\"{}\" is not sha256: or sha512: with its digits", shown(text))));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[derive(Clone, Debug)]
enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// One of the function that a digest is made by.
    fn like(digest: &Digest) -> Self {
        match digest.parts().0 {
            "sha512" => Hasher::Sha512(Sha512::new()),
            _ => Hasher::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn digest(self) -> Digest {
        let (name, bytes) = match self {
            Hasher::Sha256(hasher) => ("sha256:", hasher.finalize().to_vec()),
            Hasher::Sha512(hasher) => ("sha512:", hasher.finalize().to_vec()),
        };
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
        Digest(name.chars().chain(digits).collect())
    }
}

/// A reader whose end is an error, unless what was read has the expected digest, and size if that is known.
///
/// Nothing that comes out of it is proven before it has given its end: whoever stops earlier calls
/// [`finish`](Verified::finish). The errors have an [`Error`] inside, which [`error`] takes out again.
#[derive(Debug)]
pub(crate) struct Verified<R> {
    inner: R,
    expected: Digest,
    size: Option<u64>,
    read: u64,
    /// None if somebody else verifies the digest.
    hasher: Option<Hasher>,
    /// Whether the end was seen, and found good.
    ended: bool,
}

impl<R: Read> Verified<R> {
    pub(crate) fn new(inner: R, expected: Digest, size: Option<u64>) -> Self {
        let hasher = Some(Hasher::like(&expected));
        Self { inner, expected, size, read: 0, hasher, ended: false }
    }

    /// Leaves the digest to the caller, who makes it of the same bytes. The size is still checked.
    pub(crate) fn leave_digest(&mut self) {
        self.hasher = None;
    }

    /// Reads what is left, and checks the whole.
    #[cfg(test)]
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    fn fail(&self, cause: String) -> io::Error {
        invalid(format!("read {}", self.expected), cause).into()
    }

    fn check_end(&mut self) -> io::Result<usize> {
        if let Some(size) = self.size.filter(|size| *size != self.read) {
            return Err(self.fail(format!("it has {} bytes, not {size}", self.read)));
        }
        match self.hasher.clone().map(Hasher::digest) {
            Some(found) if found != self.expected => Err(self.fail(format!("the content is {found}"))),
            _ => {
                self.ended = true;
                Ok(0)
            }
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.ended {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count == 0 {
            return self.check_end();
        }
        self.read += count as u64;
        if let Some(size) = self.size.filter(|size| self.read > *size) {
            return Err(self.fail(format!("it has more than {size} bytes")));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
        Ok(count)
    }
}

/// Names all that a reader gives by its SHA-256.
pub(super) fn of_reader(mut reader: impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    io::copy(&mut reader, &mut hasher)?;
    Ok(Hasher::Sha256(hasher).digest())
}

/// Takes the error of ours out of one of a reader, or makes one of it that has `step` in its words.
pub(crate) fn error(step: impl Into<String>, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(other) => match other.raw_os_error() {
            Some(errno) => Error::os(Layer::Image, step, errno),
            None => invalid(step, other.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// sha256sum(1) of "abc" and of nothing, sha512sum(1) of "abc".
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC_512: &str = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[test]
    fn a_digest_is_strict_and_prints_as_it_was() {
        assert_eq!(ABC.parse::<Digest>().unwrap(), Digest::of(b"abc"));
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        let digest: Digest = ABC_512.parse().unwrap();
        assert!(digest.names(b"abc") && !digest.names(b"abd"));
        assert_eq!(digest.parts().0, "sha512");
        let upper = ABC.to_uppercase().replace("SHA256", "sha256");
        let (short, long) = (&ABC[..70], format!("{ABC}0"));
        let mixed = ABC.replace("sha256", "sha512");
        for text in ["", ":", "sha256:", "sha256:../../x", &ABC[7..], short, &long, &upper, &mixed, "md5:00", " "] {
            let error = text.parse::<Digest>().unwrap_err();
            assert_eq!((error.layer(), error.kind()), (Layer::Image, ErrorKind::InvalidImage), "{text}");
        }
    }

    #[test]
    fn what_differs_in_content_or_size_has_no_good_end() {
        let read = |content: &'static [u8], digest: &str, size| {
            let mut out = Vec::new();
            let mut reader = Verified::new(content, digest.parse().unwrap(), size);
            reader.read_to_end(&mut out).map(|_| out).map_err(|error| super::error("read", error))
        };
        for digest in [ABC, ABC_512] {
            assert_eq!(read(b"abc", digest, Some(3)).unwrap(), b"abc");
            assert_eq!(read(b"abc", digest, None).unwrap(), b"abc");
        }
        assert_eq!(read(b"", EMPTY, Some(0)).unwrap(), b"");
        for (content, size) in [(&b"abd"[..], 3), (b"abc", 4), (b"abc", 2), (b"", 0)] {
            let error = read(content, ABC, Some(size)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidImage, "{error}");
            assert!(error.to_string().starts_with(&format!("image: read {ABC}: ")), "{error}");
        }
    }

    #[test]
    fn a_digest_that_is_left_to_others_leaves_the_size() {
        for (size, good) in [(3, true), (2, false), (4, false)] {
            let mut reader = Verified::new(&b"abd"[..], ABC.parse().unwrap(), Some(size));
            reader.leave_digest();
            assert_eq!(reader.finish().is_ok(), good, "{size}");
        }
    }

    #[test]
    fn what_has_no_good_end_has_none_later() {
        let mut bad = Verified::new(&b"abd"[..], ABC.parse().unwrap(), None);
        bad.finish().unwrap_err();
        bad.finish().unwrap_err();
    }

    #[test]
    fn to_finish_reads_what_is_left() {
        let mut byte = [0];
        let mut good = Verified::new(&b"abc"[..], ABC.parse().unwrap(), Some(3));
        good.read_exact(&mut byte).unwrap();
        good.finish().unwrap();
        good.finish().unwrap();
        let mut bad = Verified::new(&b"abd"[..], ABC.parse().unwrap(), None);
        bad.read_exact(&mut byte).unwrap();
        bad.finish().unwrap_err();
    }
}
