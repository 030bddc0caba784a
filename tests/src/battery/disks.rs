//! File systems of a rig's own: in files that are mounted as loop devices, so that the power can be cut, or in memory, so that they can be full.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::rig::NotHere;
use crate::wait::wait_until;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskKind {
    Ext4,
    Xfs,
    Btrfs,
    /// A small ext4, which is soon full.
    Small,
    /// In memory, of so many MiB and inodes.
    Memory,
}

impl DiskKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Small => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Memory => "tmpfs",
        }
    }

    /// The program that makes one, and its package.
    fn maker(self) -> Option<(&'static str, &'static str, &'static [&'static str])> {
        match self {
            Self::Ext4 | Self::Small => Some(("mkfs.ext4", "e2fsprogs", &["-q", "-F"])),
            Self::Xfs => Some(("mkfs.xfs", "xfsprogs", &["-q", "-f"])),
            Self::Btrfs => Some(("mkfs.btrfs", "btrfs-progs", &["-q", "-f"])),
            Self::Memory => None,
        }
    }

    /// Nothing becomes durable by the mere passing of time: what a cut leaves is what was asked for.
    fn options(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Small | Self::Btrfs => "loop,commit=300",
            Self::Xfs => "loop",
            Self::Memory => "size=400m,nr_inodes=60000,mode=0755",
        }
    }
}

struct Disk {
    place: PathBuf,
    file: PathBuf,
}

/// The file systems of one machine; their power goes at once.
pub(crate) struct Disks {
    kind: DiskKind,
    disks: Vec<Disk>,
    files: Option<tempfile::TempDir>,
}

impl DiskKind {
    fn size(self) -> u64 {
        if self == Self::Small { 48 << 20 } else { 1 << 30 }
    }
}

impl Disks {
    /// Makes a file system for each of these directories, and mounts it there.
    pub(crate) fn mount(kind: DiskKind, places: &[PathBuf]) -> Result<Self, NotHere> {
        if !nix::unistd::geteuid().is_root() {
            return Err("mounting needs root".to_owned());
        }
        let mut disks = Self { kind, disks: Vec::new(), files: None };
        if let Some((maker, package, arguments)) = kind.maker() {
            if !has(maker) {
                return Err(format!("{maker} is not here (package {package})"));
            }
            let files = tempfile::Builder::new().prefix("ra-disks-").tempdir_in("/tmp").map_err(|err| err.to_string())?;
            for (number, place) in places.iter().enumerate() {
                let file = files.path().join(format!("{number}.img"));
                File::create(&file).and_then(|file| file.set_len(kind.size())).map_err(|err| err.to_string())?;
                said(Command::new(maker).args(arguments).arg(&file))?;
                disks.disks.push(Disk { place: place.clone(), file });
            }
            disks.files = Some(files);
        } else {
            disks.disks.extend(places.iter().map(|place| Disk { place: place.clone(), file: "tmpfs".into() }));
        }
        disks.up()?;
        Ok(disks)
    }

    fn up(&self) -> Result<(), NotHere> {
        for disk in &self.disks {
            // One may lie within another.
            fs::create_dir_all(&disk.place).map_err(|err| err.to_string())?;
            let mut mount = Command::new("mount");
            mount.args(["-t", self.kind.name(), "-o", self.kind.options()]).arg(&disk.file).arg(&disk.place);
            said(&mut mount)?;
        }
        Ok(())
    }

    fn down(&self) {
        for disk in self.disks.iter().rev() {
            // Whoever was killed a moment ago may still be about to let go.
            wait_until(&format!("{} can be unmounted", disk.place.display()), Duration::from_secs(60), || {
                let done = Command::new("umount").arg(&disk.place).output();
                done.is_ok_and(|done| done.status.success() || String::from_utf8_lossy(&done.stderr).contains("not mounted"))
            });
        }
    }

    /// Cuts the power: what was not made durable is lost. `end` ends everything that ran; then the machine is there again.
    #[track_caller]
    pub(crate) fn cut(&self, end: impl FnOnce()) {
        if self.kind == DiskKind::Btrfs {
            // It knows no such ioctl. What was handed to the device until now is what the device would have.
            end();
            for disk in &self.disks {
                let done = Command::new("cp")
                    .args(["--sparse=always", "--reflink=auto"])
                    .arg(&disk.file)
                    .arg(disk.file.with_extension("cut"))
                    .status();
                assert!(done.is_ok_and(|done| done.success()), "the disk cannot be copied");
            }
            self.down();
            for disk in &self.disks {
                fs::rename(disk.file.with_extension("cut"), &disk.file).expect("the directory of the disks is ours");
            }
        } else {
            for disk in &self.disks {
                shut_down(&disk.place);
            }
            let lost = fs::write(self.disks[0].place.join("after-the-cut"), "");
            assert!(lost.is_err(), "the power was not cut: a file could still be made");
            end();
            self.down();
        }
        self.up().expect("what was mounted once is mounted again");
    }

    /// Has the file systems commit their journals, and nothing else: what they do by themselves every few seconds.
    pub(crate) fn commit(&self) {
        for disk in &self.disks {
            // At a place of the file system's own.
            let path = disk.place.join("lost+found/committed");
            let done = fs::write(&path, "").and_then(|()| File::open(&path)?.sync_all());
            done.expect("the disk takes what is written");
        }
    }

    /// Fills a file system to its last block.
    pub(crate) fn fill(&self, which: usize, with: Filler) {
        let place = &self.disks[which].place;
        let ballast = place.join("ballast");
        fs::create_dir_all(&ballast).expect("there is room for a directory");
        match with {
            Filler::Blocks => {
                let mut file = File::create(ballast.join("blocks")).expect("there is room for a file");
                let mut chunk = vec![1_u8; 1 << 20];
                while !chunk.is_empty() {
                    use std::io::Write;
                    if file.write_all(&chunk).is_err() {
                        chunk.truncate(chunk.len() / 2);
                    }
                }
            }
            Filler::Inodes => {
                let mut number = 0_u64;
                while File::create(ballast.join(number.to_string())).is_ok() {
                    number += 1;
                }
                assert!(number > 100, "there was room for {number} files only");
            }
        }
    }

    /// Makes room again.
    pub(crate) fn empty(&self) {
        for disk in &self.disks {
            let _ = fs::remove_dir_all(disk.place.join("ballast"));
            // The next cut must not bring it back.
            let _ = File::open(&disk.place).and_then(|place| place.sync_all());
        }
    }
}

/// With what a disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filler {
    Blocks,
    Inodes,
}

impl Drop for Disks {
    fn drop(&mut self) {
        // One that stays mounted would be told by the next `df`; a second panic would end everything.
        for disk in self.disks.iter().rev() {
            for _ in 0..100 {
                let done = Command::new("umount").arg(&disk.place).output();
                if done.is_ok_and(|done| done.status.success() || String::from_utf8_lossy(&done.stderr).contains("not mounted")) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// `FS_IOC_SHUTDOWN` without a flush of the log: nothing is written from here on (linux/fs.h; xfs and ext4 have it).
#[expect(unsafe_code, reason = "there is no safe way to call an ioctl")]
fn shut_down(place: &Path) {
    nix::ioctl_read!(fs_ioc_shutdown, b'X', 125, u32);
    let mut flag: u32 = 2;
    let directory = File::open(place).expect("the disk is mounted");
    // SAFETY: the descriptor is open, and the number lives until the call returns.
    let done = unsafe { fs_ioc_shutdown(directory.as_raw_fd(), &raw mut flag) };
    assert!(done.is_ok(), "the file system does not shut down: {done:?}");
}

fn has(program: &str) -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

fn said(command: &mut Command) -> Result<(), NotHere> {
    let done = command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().map_err(|err| format!("{command:?}: {err}"))?;
    if done.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim())) }
}
