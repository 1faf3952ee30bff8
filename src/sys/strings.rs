//! Arrays of strings in the form that execve(2) takes.

use core::ffi::{CStr, c_char};
use std::ffi::CString;
use std::fmt;

/// Strings, and the array of pointers to them that ends in a null pointer.
pub(crate) struct CStringArray {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
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
        Self { strings, pointers }
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
        Self::new(self.strings.clone())
    }
}

impl fmt::Debug for CStringArray {
    /// Leaves the strings out: an environment may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} strings]", self.strings.len())
    }
}
