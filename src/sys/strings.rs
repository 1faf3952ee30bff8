//! Arrays of strings in the form that execve(2) takes.

use core::ffi::{CStr, c_char};
use std::ffi::CString;
use std::fmt;

/// Strings, and the array of pointers to them that ends in a null pointer.
pub(crate) struct CStringArray {
    strings: Vec<CString>,
    /// As long as the array with its null pointer, once for every variant.
    pointers: Vec<*const c_char>,
    length: usize,
}

// SAFETY: The pointers point into the strings beside them, which are owned, never changed, and not moved by a
// move of the array: a `CString` keeps its bytes on the heap.
unsafe impl Send for CStringArray {}
// SAFETY: As above; nothing is changed through a shared reference.
unsafe impl Sync for CStringArray {}

impl CStringArray {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr());
        let pointers = pointers.chain([core::ptr::null()]).collect();
        Self::of(strings, pointers)
    }

    /// One array for each of `last`, which ends in that string.
    pub(crate) fn with_variants(mut strings: Vec<CString>, last: Vec<CString>) -> Self {
        let common: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        let mut pointers = Vec::new();
        for string in &last {
            pointers.extend_from_slice(&common);
            pointers.extend([string.as_ptr(), core::ptr::null()]);
        }
        let length = common.len() + 2;
        strings.extend(last);
        Self { strings, pointers, length }
    }

    fn of(strings: Vec<CString>, pointers: Vec<*const c_char>) -> Self {
        let length = pointers.len();
        Self { strings, pointers, length }
    }

    /// One of the variants; the first where there is no such.
    pub(super) fn variant(&self, index: usize) -> *const *const c_char {
        match self.pointers.get(index * self.length..) {
            Some(rest) if !rest.is_empty() => rest.as_ptr(),
            _ => self.as_ptr(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.strings.iter().map(CString::as_c_str)
    }

    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

impl Clone for CStringArray {
    fn clone(&self) -> Self {
        // New strings are elsewhere, and so are pointers to them.
        Self::new(self.strings.clone())
    }
}

impl fmt::Debug for CStringArray {
    /// Leaves the strings out: an environment may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} strings]", self.strings.len())
    }
}
