//! Disks of a few MiB, which can be filled, locked and made to lie.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::missing;

fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|ended| ended.status.success())
}

/// A file system of its own.
pub struct Mount {
    at: PathBuf,
    /// Where it says how much is asked of its disk at once, and what that was before: the device keeps it for whoever comes
    /// next.
    limit: Option<(PathBuf, String)>,
}

impl Mount {
    fn new(at: &Path, arguments: &[&str]) -> Option<Mount> {
        fs::create_dir_all(at).unwrap();
        let place = at.to_str().unwrap();
        if works("mount", &[arguments, &[place]].concat()) {
            return Some(Mount { at: at.to_owned(), limit: None });
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
        let image = backing.at.join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let image = image.to_str().unwrap();
        // Without a journal, which would not forgive. Each block lies in one page of the image.
        if !works("mkfs.ext2", &["-q", "-F", "-b", "4096", image]) {
            missing("mkfs.ext2", "Install e2fsprogs");
            return None;
        }
        Mount::new(at, &["-o", "loop", image])
    }

    /// Its disk is asked for a page at a time, which it takes, or says that it did not. Of a larger write a loop device may take
    /// the first pages only, and call it whole (docs/faults.md).
    pub fn honest(mut self) -> Option<Mount> {
        let limit = self.device().map(|device| Path::new("/sys/block").join(device).join("queue/max_sectors_kb"));
        let set = |limit: PathBuf| {
            let before = fs::read_to_string(&limit).ok()?;
            fs::write(&limit, "4").ok()?;
            Some((limit, before))
        };
        self.limit = limit.and_then(set);
        if self.limit.is_none() {
            missing("loop device whose queue can be set", "Run as root, with /sys writable");
        }
        self.limit.is_some().then_some(self)
    }

    fn device(&self) -> Option<String> {
        let mounts = fs::read_to_string("/proc/mounts").ok()?;
        let mine = mounts.lines().map(|line| line.split(' ')).find_map(|mut words| {
            let device = words.next()?;
            (Path::new(words.next()?) == self.at).then_some(device)
        });
        Some(mine?.strip_prefix("/dev/")?.to_owned())
    }

    /// Takes all the room but some.
    pub fn fill(&self, but_mib: u64) {
        let mut ballast = File::options().create(true).append(true).open(self.at.join("ballast")).unwrap();
        while ballast.write_all(&[0xb5; 64 * 1024]).is_ok() {}
        let length = ballast.metadata().unwrap().len();
        ballast.set_len(length.saturating_sub(but_mib << 20)).unwrap();
    }

    pub fn make_room(&self) {
        fs::remove_file(self.at.join("ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some((limit, before)) = self.limit.take() {
            let _ = fs::write(limit, before);
        }
        // Lazily: the hub may be on its way out.
        works("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

/// Nobody may write to these, not even root.
pub fn lock(paths: &[PathBuf], locked: bool) -> bool {
    let flag = if locked { "+i" } else { "-i" };
    paths.iter().all(|path| works("chattr", &[flag, path.to_str().unwrap()]))
}
