//! Disks of a few MiB, which can be filled, locked and made to lie.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::missing;

fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|ended| ended.status.success())
}

/// A file system in memory of its own.
pub struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, arguments: &[&str]) -> Option<Mount> {
        fs::create_dir_all(at).unwrap();
        let place = at.to_str().unwrap();
        if works("mount", &[arguments, &[place]].concat()) {
            return Some(Mount(at.to_owned()));
        }
        missing("way to mount a file system", "Run as root, in a container with CAP_SYS_ADMIN and loop devices");
        None
    }

    /// None if this machine does not let us; the test ends there.
    pub fn memory(at: &Path, mib: u64) -> Option<Mount> {
        Mount::new(at, &["-t", "tmpfs", "-o", &format!("size={mib}m"), "aether-test"])
    }

    /// A disk that claims more than there is behind it: `backing` has the room, and runs out of it unseen.
    pub fn thin(at: &Path, backing: &Mount, mib: u64) -> Option<Mount> {
        let image = backing.0.join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let image = image.to_str().unwrap();
        // Without a journal, which would not forgive.
        if !works("mkfs.ext2", &["-q", "-F", image]) {
            missing("mkfs.ext2", "Install e2fsprogs");
            return None;
        }
        Mount::new(at, &["-o", "loop", image])
    }

    /// Takes all the room but some.
    pub fn fill(&self, but_mib: u64) {
        let mut ballast = File::options().create(true).append(true).open(self.0.join("ballast")).unwrap();
        while ballast.write_all(&[0xb5; 64 * 1024]).is_ok() {}
        let length = ballast.metadata().unwrap().len();
        ballast.set_len(length.saturating_sub(but_mib << 20)).unwrap();
    }

    pub fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the hub may be on its way out.
        works("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// Nobody may write to these, not even root.
pub fn lock(paths: &[PathBuf], locked: bool) -> bool {
    let flag = if locked { "+i" } else { "-i" };
    paths.iter().all(|path| works("chattr", &[flag, path.to_str().unwrap()]))
}
