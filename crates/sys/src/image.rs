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
    /// Made by Go's compiler: with a loader or without, it makes its system calls itself.
    Go,
    /// Its loader is another C library's (musl's, for one), which cannot load ours.
    OtherLibc,
    /// Raises its privileges when executed: a loader then ignores LD_PRELOAD, and under a relay it would not raise them.
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
            Ok(_) | Err(_) => return false,
        }
    }
    false
}

/// The linkage of what `file` runs as, by whichever interpreters.
///
/// # Errors
/// When a file cannot be read.
pub fn linkage_at_last(file: &Path) -> Result<Linkage> {
    let mut file = file.to_owned();
    for _ in 0..=SCRIPTS_MAX {
        match look(&file)? {
            (Linkage::Script, head) => match interpreter(&head) {
                Some(next) => file = next,
                None => return Ok(Linkage::Script),
            },
            (linkage, _) => return Ok(linkage),
        }
    }
    Ok(Linkage::Script)
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
    let head = read_at(&open, 0)?;
    let elf = Elf(&head);
    let kind = elf.linkage();
    let is_go = matches!(kind, Linkage::Dynamic | Linkage::Static)
        && elf.segments(PT_NOTE).any(|at| read_at(&open, at).is_ok_and(|note| is_go_note(&note)));
    let elf = matches!(kind, Linkage::Dynamic | Linkage::OtherLibc | Linkage::Static);
    let raises = mode & SET_USER_OR_GROUP_ID != 0 && elf;
    let kind = match kind {
        _ if raises => Linkage::SetUserId,
        _ if is_go => Linkage::Go,
        kind => kind,
    };
    Ok((kind, head))
}

fn read_at(file: &Fd, at: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; HEAD_BYTES];
    let mut used = 0;
    while let Some(room) = bytes.get_mut(used..).filter(|room| !room.is_empty()) {
        match rustix::io::pread(file, room, at + used as u64)? {
            0 => break,
            n => used += n,
        }
    }
    bytes.truncate(used);
    Ok(bytes)
}

/// Is it the note with the number of the build that Go's linker writes (name "Go", type 4)?
fn is_go_note(note: &[u8]) -> bool {
    note.starts_with(&[4, 0, 0, 0]) && note.get(8..16) == Some(&[4, 0, 0, 0, b'G', b'o', 0, 0])
}

const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;

/// The beginning of a file.
struct Elf<'a>(&'a [u8]);

impl Elf<'_> {
    fn bytes<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let at = usize::try_from(at).ok()?;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    /// Places of the program headers; `None`: it is no whole ELF file of ours.
    fn headers(&self) -> Option<impl Iterator<Item = u64>> {
        // ELF, 64 bit, little endian: what this library is built for.
        if !self.0.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]) {
            return None;
        }
        let offset = u64::from_le_bytes(self.bytes(32)?);
        let size = u64::from(u16::from_le_bytes(self.bytes(54)?));
        let count = u64::from(u16::from_le_bytes(self.bytes(56)?));
        let end = count.saturating_sub(1).saturating_mul(size).saturating_add(offset).saturating_add(4);
        (end <= self.0.len() as u64).then(|| (0..count).map(move |i| offset + i * size))
    }

    /// File offsets of the segments of `kind`.
    fn segments(&self, kind: u32) -> impl Iterator<Item = u64> {
        let headers = self.headers().into_iter().flatten();
        headers.filter_map(move |at| {
            let is_it = self.bytes(at).map(u32::from_le_bytes) == Some(kind);
            is_it.then(|| self.bytes(at + 8).map(u64::from_le_bytes)).flatten()
        })
    }

    fn linkage(&self) -> Linkage {
        if self.0.starts_with(b"#!") {
            return Linkage::Script;
        }
        if self.headers().is_none() {
            return Linkage::Unknown;
        }
        let Some(at) = self.segments(PT_INTERP).next() else { return Linkage::Static };
        let name = usize::try_from(at).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let base = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
        if base.starts_with(b"ld-musl") || base.starts_with(b"ld-uClibc") {
            Linkage::OtherLibc
        } else {
            Linkage::Dynamic
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one segment.
    fn static_elf() -> Vec<u8> {
        let mut elf = vec![0_u8; 64 + 56];
        elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        elf[32] = 64; // e_phoff
        elf[54] = 56; // e_phentsize
        elf[56] = 1; // e_phnum
        elf[64] = 1; // PT_LOAD
        elf
    }

    #[test]
    fn an_elf_file_without_an_interpreter_is_static() {
        let mut elf = static_elf();
        assert_eq!(Elf(&elf).linkage(), Linkage::Static);
        elf[64] = 3; // PT_INTERP
        elf[72] = 120; // p_offset
        elf.extend(b"/lib64/ld-linux-x86-64.so.2\0");
        assert_eq!(Elf(&elf).linkage(), Linkage::Dynamic);
        elf.splice(120.., *b"/lib/ld-musl-x86_64.so.1\0");
        assert_eq!(Elf(&elf).linkage(), Linkage::OtherLibc);
        assert_eq!(Elf(b"#!/bin/sh\n").linkage(), Linkage::Script);
        assert_eq!(Elf(b"\x7fELF\x02\x01 cut").linkage(), Linkage::Unknown);
        elf[56] = 200;
        assert_eq!(Elf(&elf).linkage(), Linkage::Unknown, "headers beyond what was read");
    }

    #[test]
    fn what_raises_its_privileges_is_left_to_itself() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("corelane-raises-{}", crate::process::pid()));
        std::fs::write(&file, static_elf()).unwrap();
        assert_eq!(linkage(&file), Ok(Linkage::Static));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4755)).unwrap();
        let found = linkage(&file);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(found, Ok(Linkage::SetUserId));
    }

    #[test]
    fn the_note_of_gos_linker_is_known() {
        let note = [&[4_u8, 0, 0, 0, 83, 0, 0, 0, 4, 0, 0, 0][..], b"Go\0\0abc"].concat();
        assert!(is_go_note(&note));
        let gnu = [&[4_u8, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0abc"].concat();
        assert!(!is_go_note(&gnu) && !is_go_note(&note[..10]));
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
