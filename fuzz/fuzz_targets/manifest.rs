//! Any documents as an image in an archive.
//!
//! The first byte tells the form. The rest is cut to documents by zero bytes, and what a document says about one before
//! it is filled in, as no fuzzer finds a digest: `@1` is the digest of the second document, and `#1` is its size.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

thread_local! {
    static FILE: RefCell<tempfile::NamedTempFile> =
        RefCell::new(tempfile::NamedTempFile::new_in("/dev/shm").expect("a file in memory"));
}

fn digest(document: &[u8]) -> String {
    let digits: String = Sha256::digest(document).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn replace(document: &[u8], word: &str, value: &str) -> Vec<u8> {
    let mut filled = Vec::new();
    let mut rest = document;
    while let Some(at) = rest.windows(word.len()).position(|window| window == word.as_bytes()) {
        filled.extend(&rest[..at]);
        filled.extend(value.as_bytes());
        rest = &rest[at + word.len()..];
    }
    filled.extend(rest);
    filled
}

/// The documents, each with what it says about those behind it filled in: the first is the index.
fn documents(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut documents: Vec<Vec<u8>> = bytes.split(|byte| *byte == 0).take(6).map(<[u8]>::to_vec).collect();
    for at in (0..documents.len()).rev() {
        for (number, other) in documents.clone().iter().enumerate().skip(at + 1) {
            documents[at] = replace(&documents[at], &format!("@{number}"), &digest(other));
            documents[at] = replace(&documents[at], &format!("#{number}"), &other.len().to_string());
        }
    }
    documents
}

fn archive(file: &mut File, form: u8, bytes: &[u8]) -> std::io::Result<()> {
    if form % 3 == 2 {
        return file.write_all(bytes);
    }
    let documents = documents(bytes);
    let mut archive = tar::Builder::new(file);
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content)
    };
    if form % 3 == 0 {
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", &documents[0])?;
        for blob in &documents[1..] {
            add(&format!("blobs/{}", digest(blob).replace(':', "/")), blob)?;
        }
    } else {
        add("manifest.json", &documents[0])?;
        for (number, file) in documents.iter().enumerate().skip(1) {
            add(&format!("{number}"), file)?;
        }
    }
    archive.finish()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((form, bytes)) = bytes.split_first() else { return };
    FILE.with_borrow_mut(|file| {
        let path = file.path().to_owned();
        let file = file.as_file_mut();
        file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).expect("the file is empty");
        archive(file, *form, bytes).expect("the archive is written");
        belljar::fuzzing::open_image(&path);
    });
});
