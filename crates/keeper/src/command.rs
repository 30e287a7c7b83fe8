//! The wrapped command: found, judged (does a preload library reach it?), started, signalled, its status passed on.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

pub use sys::image::{Linkage, linkage, linkage_at_last};
use sys::launch::{Identity, Launch};

use crate::error::{StartError, StartFailure};

/// File name of the library that the command is started with.
const PRELOAD_FILE: &str = "libcorelane_preload.so";

/// The command to wrap.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name or path, as the user gave it.
    pub name: OsString,
    /// Arguments.
    pub args: Vec<OsString>,
    /// Run as; `None`: as the caller is.
    pub identity: Option<Identity>,
}

impl Program {
    /// The file that would be executed, as execvp(3) finds it.
    ///
    /// # Errors
    /// 127 when there is none, 126 when it is no executable file.
    pub fn locate(&self) -> Result<PathBuf, StartError> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
        locate_in(&self.name, &path)
    }

    /// Starts it with `environment` added.
    ///
    /// # Errors
    /// 126 or 127 as a shell; our own failure when the change of user is refused.
    pub fn start(&self, environment: &[(String, OsString)]) -> Result<Child, StartError> {
        let mut command = Command::new(&self.name);
        command.args(&self.args).envs(environment.iter().map(|(k, v)| (k, v)));
        // Under another user nothing may raise privileges again; under the caller's own, `sudo` inside a wrapped
        // shell goes on working as it did.
        let launch = Launch {
            identity: self.identity.clone(),
            dies_with_parent: false,
            no_new_privs: self.identity.is_some(),
        };
        launch.spawn(&mut command).map_err(|e| cannot_start(&self.name, &e))
    }
}

fn cannot_start(name: &OsStr, error: &io::Error) -> StartError {
    let (kind, fix) = match error.kind() {
        io::ErrorKind::NotFound => (StartFailure::NotFound, "check its name, or give its path"),
        io::ErrorKind::PermissionDenied => {
            (StartFailure::NotExecutable, "check the permissions of the file, and of its path for --user")
        }
        _ => (StartFailure::NotExecutable, ""),
    };
    StartError { kind, ..StartError::new(format!("command `{}`", name.display()), error, fix) }
}

fn locate_in(name: &OsStr, search: &OsStr) -> Result<PathBuf, StartError> {
    let has_slash = name.as_encoded_bytes().contains(&b'/');
    let candidates: Vec<PathBuf> = if has_slash {
        vec![PathBuf::from(name)]
    } else {
        std::env::split_paths(search).map(|dir| dir.join(name)).collect()
    };
    let mut refused = None;
    for file in candidates {
        match file.metadata() {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(_) => refused = Some(file),
            Err(_) => {}
        }
    }
    let what = format!("command `{}`", name.display());
    Err(match refused {
        Some(file) => StartError {
            kind: StartFailure::NotExecutable,
            ..StartError::new(what, format!("{} is not an executable file", file.display()), "")
        },
        None => StartError {
            kind: StartFailure::NotFound,
            ..StartError::new(what, "not found", "check its name, or give its path")
        },
    })
}

/// The preload library: `CORELANE_PRELOAD`, beside this executable, or in ../lib/corelane.
///
/// # Errors
/// When it is in none of these places.
pub fn find_preload() -> Result<PathBuf, StartError> {
    if let Some(named) = std::env::var_os("CORELANE_PRELOAD") {
        let named = PathBuf::from(named);
        return named.canonicalize().map_err(|e| {
            StartError::new(
                format!("preload library {}", named.display()),
                e,
                "correct or unset CORELANE_PRELOAD",
            )
        });
    }
    let exe = std::env::current_exe()
        .and_then(|exe| exe.canonicalize())
        .map_err(|e| StartError::new("finding the preload library", e, "is /proc mounted?"))?;
    let beside = exe.parent().map(Path::to_owned).unwrap_or_default();
    let places = [beside.join(PRELOAD_FILE), beside.join("../lib/corelane").join(PRELOAD_FILE)];
    for place in &places {
        if let Ok(found) = place.canonicalize() {
            return Ok(found);
        }
    }
    let looked: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
    Err(StartError::new(
        "preload library",
        format!("not found; looked for {}", looked.join(" and ")),
        "build it (`cargo build -p corelane-preload`), or set CORELANE_PRELOAD to its path",
    ))
}

/// Can `identity` read `file`? Else the loader says so on its standard error and goes on without the library.
///
/// # Errors
/// When it cannot.
pub fn check_readable(file: &Path, identity: &Identity) -> Result<(), StartError> {
    for folder in file.ancestors().skip(1) {
        if !permits(folder, identity, 0o1) {
            return Err(unreadable(file, folder));
        }
    }
    if permits(file, identity, 0o4) { Ok(()) } else { Err(unreadable(file, file)) }
}

fn unreadable(file: &Path, at: &Path) -> StartError {
    StartError::new(
        format!("preload library {}", file.display()),
        format!("the user of --user may not enter or read {}", at.display()),
        "install corelane where everybody may read it, or set CORELANE_PRELOAD to a copy there",
    )
}

/// Does the mode of `path` give `identity` the permission (of `rwx` as in 0o7)?
fn permits(path: &Path, identity: &Identity, permission: u32) -> bool {
    let Ok(meta) = path.metadata() else { return false };
    let shift = if identity.uid == meta.uid() {
        6
    } else if identity.gid == meta.gid() || identity.groups.contains(&meta.gid()) {
        3
    } else {
        0
    };
    identity.uid == 0 || meta.mode() >> shift & permission == permission
}

/// The user `name` (or number) of /etc/passwd with the groups of /etc/group.
///
/// # Errors
/// When there is no such user.
pub fn find_user(name: &str) -> Result<Identity, StartError> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    identity_in(name, &passwd, &group).ok_or_else(|| {
        StartError::new(
            format!("user `{name}`"),
            "no such user in /etc/passwd",
            "check the name given to --user",
        )
    })
}

fn identity_in(name: &str, passwd: &str, group: &str) -> Option<Identity> {
    let line = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [user, _, uid, gid, ..] if *user == name || *uid == name => {
                Some((*user, uid.parse(), gid.parse()))
            }
            _ => None,
        }
    });
    let (user, uid, gid): (&str, u32, u32) = match line {
        Some((user, Ok(uid), Ok(gid))) => (user, uid, gid),
        Some(_) | None => return None,
    };
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, id, members, ..] = fields.as_slice()
            && members.split(',').any(|m| m == user)
            && let Ok(id) = id.parse()
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    Some(Identity { uid, gid, groups })
}

/// The exit status that says the same as `status`: the code, or 128 + the signal.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128_u8.wrapping_add(signal as u8),
        (None, None) => 125,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_found_and_dynamic() {
        let file = locate_in(OsStr::new("sh"), OsStr::new("/nonexistent:/usr/bin:/bin")).expect("sh");
        assert_eq!(linkage(&file).expect("readable"), Linkage::Dynamic);
    }

    #[test]
    fn missing_and_forbidden_commands_have_the_shells_statuses() {
        let missing = locate_in(OsStr::new("no-such-command"), OsStr::new("/bin")).expect_err("missing");
        assert_eq!(missing.exit_status(), 127);
        let not_executable = locate_in(OsStr::new("/etc/passwd"), OsStr::new("")).expect_err("no x bit");
        assert_eq!(not_executable.exit_status(), 126);
    }

    #[test]
    fn a_library_in_a_closed_folder_is_not_for_everybody() {
        let folder = std::env::temp_dir().join(format!("corelane-closed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("library"), "").expect("written");
        let nobody = Identity { uid: 65_534, gid: 65_534, groups: vec![] };
        let mode =
            |mode| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).expect("set");
        mode(0o755);
        let open = check_readable(&folder.join("library"), &nobody);
        mode(0o700);
        let closed = check_readable(&folder.join("library"), &nobody);
        std::fs::remove_dir_all(&folder).expect("removed");
        assert_eq!(open, Ok(()));
        assert!(closed.is_err_and(|e| e.why.contains("corelane-closed")));
    }

    #[test]
    fn a_user_has_its_supplementary_groups() {
        let passwd = "root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n";
        let group = "root:x:0:\nssl:x:101:web,other\nweb:x:33:\n";
        let identity = identity_in("web", passwd, group);
        assert_eq!(identity, Some(Identity { uid: 33, gid: 33, groups: vec![33, 101] }));
        assert_eq!(identity_in("nobody-here", passwd, group), None);
    }
}
