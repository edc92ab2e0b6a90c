//! Folders for the files of a test.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

/// A temporary folder that everybody may read: a daemon that root has started reads its files again as another user.
pub(crate) fn readable_folder() -> TempDir {
    let folder = TempDir::new().expect("a temporary directory");
    set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("a folder of one's own");
    folder
}
