//! Executables: does the loader take a preload library into them?

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::Result;
use crate::fds::Fd;

/// Bytes of a file in which everything is that is looked at.
const HEAD_BYTES: usize = 4096;
/// Scripts whose interpreters are scripts: as many as the kernel follows.
const SCRIPTS_MAX: u32 = 4;

/// What LD_PRELOAD can do for an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// It has a dynamic loader, which loads our library.
    Dynamic,
    /// A script: what matters is its interpreter.
    Script,
    /// Statically linked: no loader, so no library of ours.
    Static,
    /// Raises its privileges when executed: the loader then ignores LD_PRELOAD.
    SetUserId,
    /// Not an ELF file of this machine, and no script.
    Unknown,
}

/// What LD_PRELOAD can do for `file` (ELF program headers, gABI chapter 5; `#!` as in execve(2)).
///
/// # Errors
/// When the file cannot be read.
pub fn linkage(file: &Path) -> Result<Linkage> {
    look(file).map(|(linkage, _)| linkage)
}

/// Does our library come into what `file` runs as, by whichever interpreters? A file that cannot be read is executed by nobody but those who may not
/// preload.
#[must_use]
pub fn takes_library(file: &Path) -> bool {
    let mut file = file.to_owned();
    for _ in 0..=SCRIPTS_MAX {
        match look(&file) {
            Ok((Linkage::Dynamic, _)) => return true,
            Ok((Linkage::Script, head)) => match interpreter(&head) {
                Some(next) => file = next,
                None => return false,
            },
            Ok((Linkage::Static | Linkage::SetUserId | Linkage::Unknown, _)) | Err(_) => return false,
        }
    }
    false
}

/// The interpreter named in the first line of a script.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?.trim_ascii();
    let name = line.split(|b| matches!(b, b' ' | b'\t')).next().filter(|name| !name.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}

fn look(file: &Path) -> Result<(Linkage, Vec<u8>)> {
    const SET_USER_OR_GROUP_ID: u32 = 0o6000;
    let open = Fd::from(rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    let mode = rustix::fs::fstat(&open)?.st_mode;
    let mut head = vec![0; HEAD_BYTES];
    let mut used = 0;
    while let Some(room) = head.get_mut(used..).filter(|room| !room.is_empty()) {
        match rustix::io::read(&open, room)? {
            0 => break,
            n => used += n,
        }
    }
    head.truncate(used);
    let kind = linkage_of(&head);
    let raises = mode & SET_USER_OR_GROUP_ID != 0 && kind == Linkage::Dynamic;
    Ok((if raises { Linkage::SetUserId } else { kind }, head))
}

fn linkage_of(head: &[u8]) -> Linkage {
    const PT_INTERP: u32 = 3;
    if head.starts_with(b"#!") {
        return Linkage::Script;
    }
    // ELF, 64 bit, little endian: what this library is built for.
    if !head.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        return Linkage::Unknown;
    }
    let bytes = |at: usize, len: usize| head.get(at..at.checked_add(len)?);
    let u16_at = |at| bytes(at, 2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    let u32_at = |at| bytes(at, 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let u64_at = |at| bytes(at, 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let (Some(offset), Some(size), Some(count)) = (u64_at(32), u16_at(54), u16_at(56)) else {
        return Linkage::Unknown;
    };
    for i in 0..u64::from(count) {
        let at = i.saturating_mul(u64::from(size)).saturating_add(offset);
        let Some(kind) = usize::try_from(at).ok().and_then(u32_at) else { return Linkage::Unknown };
        if kind == PT_INTERP {
            return Linkage::Dynamic;
        }
    }
    Linkage::Static
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elf_file_without_an_interpreter_is_static() {
        let mut elf = vec![0_u8; 64 + 56];
        elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        elf[32] = 64; // e_phoff
        elf[54] = 56; // e_phentsize
        elf[56] = 1; // e_phnum
        elf[64] = 1; // PT_LOAD
        assert_eq!(linkage_of(&elf), Linkage::Static);
        elf[64] = 3; // PT_INTERP
        assert_eq!(linkage_of(&elf), Linkage::Dynamic);
        assert_eq!(linkage_of(b"#!/bin/sh\n"), Linkage::Script);
        assert_eq!(linkage_of(b"\x7fELF\x02\x01 cut"), Linkage::Unknown);
    }

    #[test]
    fn a_script_is_what_its_interpreter_is() {
        let folder = std::env::temp_dir().join(format!("corelane-image-{}", crate::process::pid()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).unwrap();
            folder.join(name)
        };
        let good = file("good", "#! /bin/sh -e\necho");
        let nested = file("nested", &format!("#!{}\n", good.display()));
        let absent = file("absent", "#!/nowhere/at/all\n");
        let bare = file("bare", "#!\n");
        assert!(takes_library(&good) && takes_library(&nested));
        assert!(!takes_library(&absent) && !takes_library(&bare) && !takes_library(Path::new("/nowhere")));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
