//! The operating system's errors in words.

/// Says what an I/O error means to a user, without the `(os error N)` tail.
pub(crate) fn describe(error: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::NotFound => "no such file or folder".into(),
        K::PermissionDenied => "permission denied".into(),
        K::StorageFull => "the disk is full: free some space or write elsewhere".into(),
        K::ReadOnlyFilesystem => "the file system is read-only: write elsewhere".into(),
        K::IsADirectory => "is a folder, expected a file".into(),
        K::NotADirectory => "a part of this path is a file, not a folder: name another".into(),
        K::InvalidFilename => "the name is too long for its file system, or has what that refuses: name another".into(),
        K::QuotaExceeded => "the disk quota is used up: free some space or write elsewhere".into(),
        K::FileTooLarge => "the file is too large for its file system or the shell's limit: write elsewhere".into(),
        K::ResourceBusy => "it is in use or something is mounted on it: name another".into(),
        K::StaleNetworkFileHandle => "the network drive has lost it: connect it again".into(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_owned()
        }
    }
}
