//! Room that is kept for the way back: a run that goes backward because the disk is full must still be able to make a link and to write down a fact.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::AppRoot;

/// Bytes that are kept; with them goes one inode.
const RESERVE: usize = 1024 * 1024;
/// With fewer bytes than this, or fewer inodes, the way back begins with the reserve.
const SCARCE_BYTES: u64 = 4 * 1024 * 1024;
const SCARCE_INODES: u64 = 16;

impl AppRoot {
    fn reserve(&self) -> PathBuf {
        self.path().join(".agent/reserve")
    }

    /// Keeps room for the way back, if there is any.
    pub(crate) fn keep_reserve(&self) {
        let path = self.reserve();
        if path.exists() {
            return;
        }
        // Bytes that no file system can make less of.
        let mut bytes = vec![0; RESERVE];
        if aws_lc_rs::rand::fill(&mut bytes).is_err() {
            return;
        }
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        if file.and_then(|mut file| file.write_all(&bytes)).is_err() {
            // Half a reserve would be taken for a whole one. That there is no room is told by whoever needs it.
            let _ = fs::remove_file(&path);
        }
    }

    /// Gives the reserve up where room is scarce.
    pub(crate) fn make_room_for_the_way_back(&self) {
        let scarce = |disk: super::Disk| disk.free < SCARCE_BYTES || (disk.inodes_in_all > 0 && disk.inodes < SCARCE_INODES);
        if self.disk().is_ok_and(scarce) {
            self.give_up_reserve();
        }
    }

    /// Gives the reserve up.
    pub(crate) fn give_up_reserve(&self) {
        if fs::remove_file(self.reserve()).is_ok() {
            tracing::warn!("the disk of {} is full: the reserve for the way back is given up", self.path().display());
        }
    }
}
