//! Archives that are slightly wrong: other readers may still read something in them.

/// A generator of numbers, the same ones for the same seed (xorshift64*, by Vigna).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// The fields of a header, by where they start and how long they are.
const FIELDS: [(usize, usize); 14] = [
    (0, 100),
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (148, 8),
    (156, 1),
    (157, 100),
    (257, 8),
    (329, 8),
    (337, 8),
    (345, 155),
    (500, 12),
];

/// What may stand in a field, or in a record.
const WORDS: [&[u8]; 34] = [
    b"0",
    b"\0",
    b" ",
    b"/",
    b"../",
    b"./",
    b"a\0b",
    b"-1",
    b"+1",
    b"0000644\0",
    b"00000001000\0",
    b"0000000 ",
    b"\x80\0\0\0\0\0\0\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x80\0\0\0\0\0\0\0\0\0\x02\0",
    b"ustar\x0000",
    b"ustar  \0",
    b"\0\0\0\0\0\0\0\0",
    b"9 path=z\n",
    b"11 path=zz\n",
    b"10 size=5\n",
    b"12 size=512\n",
    b"9 path=z\n10 size=0\n",
    b"14 linkpath=q\n",
    b"11 mtime=7\n",
    b"14 mtime=-7.5\n",
    b"10 uid=77\n",
    b"12 comment=",
    b"22 hdrcharset=BINARY\n",
    b"9 path=\n",
    b"8 path=\n",
    b"7 gid=\n",
    b"tar\0",
    b"\xff",
];

/// Blocks that are not zero, whose checksums are made right: a wrong one is all that is seen of the rest.
fn seal(archive: &mut [u8], at: usize) {
    let Some(block) = archive.get_mut(at..at + 512) else { return };
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Whether a block looks like a header.
fn is_header(block: &[u8]) -> bool {
    &block[257..262] == b"ustar" || (block[0] != 0 && block[154] == 0 && block[155] == b' ')
}

/// One to three changes to `archive`.
pub(super) fn mutate(archive: &[u8], random: &mut Random) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for _ in 0..=random.below(3) {
        let headers: Vec<usize> =
            (0..archive.len() / 512).map(|block| block * 512).filter(|at| is_header(&archive[*at..at + 512])).collect();
        if headers.is_empty() {
            break;
        }
        let at = headers[random.below(headers.len())];
        change(&mut archive, at, random);
        if random.below(12) != 0 {
            seal(&mut archive, at);
        }
    }
    archive
}

fn change(archive: &mut Vec<u8>, at: usize, random: &mut Random) {
    let (start, length) = FIELDS[random.below(FIELDS.len())];
    let word = random.of(&WORDS);
    match random.below(12) {
        // Any byte of the header, or of what is behind it.
        0 => archive[at + random.below(512)] ^= 1 << random.below(8),
        1 if at + 1024 <= archive.len() => archive[at + 512 + random.below(512)] ^= 1 << random.below(8),
        // A type.
        2..=4 => {
            archive[at + 156] = *random.of::<[u8]>(&[b"01234567gxLKSX\0".as_slice()]).get(random.below(15)).unwrap()
        }
        // A word, in a field, whole or not.
        5..=7 => {
            let field = &mut archive[at + start..at + start + length];
            if random.below(2) == 0 {
                field.fill(0);
            }
            let from = random.below(length.min(8));
            let fits = word.len().min(length - from);
            field[from..from + fits].copy_from_slice(&word[..fits]);
        }
        // A word behind the header: in records, long names, data.
        8 if at + 1024 <= archive.len() => {
            let from = at + 512 + random.below(512 - word.len());
            archive[from..from + word.len()].copy_from_slice(word);
        }
        9 if at + 1024 <= archive.len() => archive[at + 512..at + 512 + word.len()].copy_from_slice(word),
        // Blocks twice, missing, of zeros, or cut off.
        10 => match random.below(4) {
            0 => {
                let block = archive[at..at + 512].to_vec();
                archive.splice(at..at, block);
            }
            1 => drop(archive.drain(at..at + 512)),
            2 => drop(archive.splice(at..at, [0; 512])),
            _ => archive.truncate(at + random.below(3) * 256),
        },
        // A size.
        _ => {
            let size = [0, 1, 5, 511, 512, 513, 1024, 4096, 1 << 20][random.below(9)];
            archive[at + 124..at + 136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        }
    }
}
