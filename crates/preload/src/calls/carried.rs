//! Executables that this library does not come into: static ones, Go's, those of another C library, which would not even start with it. A relay
//! carries them.

use core::ffi::{CStr, c_char};
use core::ptr;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use sys::image::{Linkage, linkage_at_last};

use crate::adopt;

/// What is executed in the place of such a program: `corelane relay FILE NAME ARGUMENT...`.
pub(crate) struct Carried {
    words: Vec<CString>,
    /// The words, and a null pointer.
    list: Vec<*const c_char>,
}

impl Carried {
    /// For `file`, to be executed with `args`, if it needs that and there is a relay.
    pub(crate) fn new(file: &Path, args: &[&CStr]) -> Option<Self> {
        let unreached = [Linkage::Static, Linkage::Go, Linkage::OtherLibc];
        // What cannot be executed fails as it does without us.
        let executable = rustix::fs::access(file, Access::EXEC_OK).is_ok();
        if !executable || !linkage_at_last(file).is_ok_and(|linkage| unreached.contains(&linkage)) {
            return None;
        }
        let relay = CString::new(program()?.into_os_string().as_bytes()).ok()?;
        let file = CString::new(file.as_os_str().as_bytes()).ok()?;
        let name = args.first().map_or_else(|| file.clone(), |name| (*name).to_owned());
        let mut words = vec![relay, c"relay".to_owned(), c"--".to_owned(), file, name];
        words.extend(args.iter().skip(1).map(|arg| (*arg).to_owned()));
        let list = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
        Some(Self { words, list })
    }

    /// The program's path and its arguments, for execve.
    pub(crate) fn words(&self) -> (*const c_char, *const *const c_char) {
        (self.words.first().map_or(ptr::null(), |word| word.as_ptr()), self.list.as_ptr())
    }
}

/// The `corelane` program: beside this library, or in the bin folder of where it is installed.
fn program() -> Option<PathBuf> {
    let own = adopt::surroundings();
    let list = own.iter().find_map(|own| own.to_bytes().strip_prefix(b"LD_PRELOAD="))?;
    let library = list.split(|byte| matches!(byte, b' ' | b':')).next()?;
    let folder = Path::new(std::ffi::OsStr::from_bytes(library)).parent()?;
    let places = [folder.join("corelane"), folder.join("../../bin/corelane")];
    places.into_iter().find(|place| rustix::fs::access(place, Access::EXEC_OK).is_ok())
}
