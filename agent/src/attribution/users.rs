//! Names of Linux users from a file in the form of `/etc/passwd`.
//!
//! The file only: NSS (LDAP, sssd) can hang, and would hang the sampler. A user whom it does not name is known by
//! the number as text.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::SystemTime;

use tonnage_proto::limits;

/// Bytes of the file that are read.
const BYTES_MAX: u64 = 4 << 20;

#[derive(Debug)]
pub(super) struct Users {
    passwd: PathBuf,
    read_at: Option<SystemTime>,
    names: HashMap<u32, String>,
}

impl Users {
    pub(super) fn new(passwd: PathBuf) -> Self {
        Self { passwd, read_at: None, names: HashMap::new() }
    }

    /// The name of `uid`, else its number; reads the file again when it has changed.
    pub(super) fn name(&mut self, uid: u32) -> String {
        let modified = fs::metadata(&self.passwd).and_then(|metadata| metadata.modified()).ok();
        // A file that is gone for a moment (it is replaced by renaming) does not rename anybody.
        if modified.is_some() && modified != self.read_at {
            self.read_at = modified;
            self.names = self.read();
        }
        self.names.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    fn read(&self) -> HashMap<u32, String> {
        let mut text = Vec::new();
        let file = fs::File::open(&self.passwd);
        if file.and_then(|file| file.take(BYTES_MAX).read_to_end(&mut text)).is_err() {
            return HashMap::new();
        }
        parse(&String::from_utf8_lossy(&text))
    }
}

/// `name:password:uid:...`; the first name of a uid is the one.
fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else { continue };
        let sound = !name.is_empty() && name.len() <= limits::NAME_BYTES_MAX;
        if let (true, Ok(uid)) = (sound, uid.parse::<u32>()) {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_user_has_the_first_name_of_its_number_else_the_number() {
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        fs::write(&passwd, "root:x:0:0::/root:/bin/sh\n# note\ntoor:x:0:0\nada:x:1000:1000\nbad:x:-1:\n")
            .unwrap();
        let mut users = Users::new(passwd.clone());
        assert_eq!([0, 1000, 7].map(|uid| users.name(uid)), ["root", "ada", "7"]);
        fs::write(&passwd, "eve:x:7:7\n").unwrap();
        let later = fs::metadata(&passwd).unwrap().modified().unwrap() + Duration::from_secs(1);
        fs::File::options().write(true).open(&passwd).unwrap().set_modified(later).unwrap();
        assert_eq!([1000, 7].map(|uid| users.name(uid)), ["1000", "eve"]);
        fs::remove_file(&passwd).unwrap();
        assert_eq!(users.name(7), "eve");
    }

    #[test]
    fn without_a_file_a_user_is_a_number() {
        assert_eq!(Users::new(PathBuf::from("/no/such/file")).name(5), "5");
    }
}
