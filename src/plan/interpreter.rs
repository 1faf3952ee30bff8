//! What a program needs besides itself to be executed.

/// The interpreter that the start of a program names: of a script (execve(2)) or of an ELF file (elf(5)).
pub(crate) fn interpreter(head: &[u8]) -> Option<&[u8]> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        return line.split(|byte| *byte == b' ' || *byte == b'\t').find(|word| !word.is_empty());
    }
    if !head.starts_with(b"\x7fELF\x02") {
        return None;
    }
    const PT_INTERP: u64 = 3;
    let number = |at: usize, length: usize| {
        let bytes = head.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let header = usize::try_from(table.checked_add(index.checked_mul(size)?)?).ok()?;
        if number(header, 4)? == PT_INTERP {
            let start = usize::try_from(number(header.checked_add(8)?, 8)?).ok()?;
            let length = usize::try_from(number(header.checked_add(32)?, 8)?).ok()?;
            let path = head.get(start..start.checked_add(length)?)?;
            return path.split(|byte| *byte == 0).next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    #[test]
    fn interpreters_of_scripts_and_programs_are_found() {
        assert_eq!(interpreter(b"#! /usr/bin/env python3\nx"), Some(&b"/usr/bin/env"[..]));
        assert_eq!(interpreter(b"#!/bin/sh"), Some(&b"/bin/sh"[..]));
        assert_eq!(interpreter(b"#!\n"), None);
        assert_eq!(interpreter(b"\x7fELF\x02"), None);
        assert_eq!(interpreter(b"hello"), None);
        let sh = std::fs::read(std::fs::canonicalize("/bin/sh").unwrap()).unwrap();
        let loader = interpreter(&sh[..4096]).unwrap();
        assert!(Path::new(std::ffi::OsStr::from_bytes(loader)).exists());
    }

    #[test]
    fn a_hostile_header_is_no_more_than_unknown() {
        let mut head = std::fs::read(std::fs::canonicalize("/bin/sh").unwrap()).unwrap();
        head.truncate(4096);
        for at in 0..512 {
            for value in [0, 0x7f, 0xff] {
                let mut head = head.clone();
                head[at] = value;
                let _ = interpreter(&head);
            }
            let _ = interpreter(&head[..at]);
        }
    }
}
