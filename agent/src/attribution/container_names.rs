//! Names of containers that no Kubernetes knows of, by their ids, from what Docker and Podman keep as root:
//! `<docker>/<id>/config.v2.json` (`"Name": "/web"`) and Podman's `containers.json`, a list of `{id, names}`.
//!
//! Only these: what a rootless Podman keeps is its user's own, who can write any name there. A file that another than
//! root may write is not evidence either, and is not read. Podman's list belongs to root's storage alone.
//!
//! A name is read once, since a rename would split one container's time. An unknown id is looked for at most once in ten
//! seconds, and Podman's list read no more often, however many there are. Files and names have a limit; all ids are
//! forgotten when there are too many.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tonnage_proto::limits;

const READ_EVERY_NS: i64 = 10_000_000_000;
/// Bytes of a file that are read; Docker's is some kilobytes, Podman's some hundred per container.
const BYTES_MAX: u64 = 8 << 20;
/// Ids that are remembered, known or not.
const IDS_MAX: usize = 4096;
/// Length of an id: a SHA-256 in hexadecimal digits.
const ID_LENGTH: usize = 64;
/// Anyone but the owner may write.
const OTHERS_WRITE: u32 = 0o022;

#[derive(Debug)]
pub(super) struct ContainerNames {
    docker: PathBuf,
    podman: PathBuf,
    /// `Err`: not known at this time.
    names: HashMap<String, Result<String, i64>>,
    podman_names: HashMap<String, String>,
    podman_read_at_ns: Option<i64>,
}

impl ContainerNames {
    /// `docker`: the folder of containers' folders. `podman`: the file.
    pub(super) fn new(docker: PathBuf, podman: PathBuf) -> Self {
        Self { docker, podman, names: HashMap::new(), podman_names: HashMap::new(), podman_read_at_ns: None }
    }

    /// The name of the container with this id of 64 hexadecimal digits, if root's files tell it. `now_ns` is monotonic.
    pub(super) fn get(&mut self, id: &str, now_ns: i64) -> Option<String> {
        // Anything else could lead out of the folder.
        if id.len() != ID_LENGTH || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        match self.names.get(id) {
            Some(Ok(name)) => return Some(name.clone()),
            Some(Err(asked_ns)) if now_ns.saturating_sub(*asked_ns) < READ_EVERY_NS => return None,
            _ => {}
        }
        if self.names.len() >= IDS_MAX {
            self.names.clear();
        }
        let name = docker_name(&self.docker, id).or_else(|| self.podman_name(id, now_ns));
        self.names.insert(id.to_owned(), name.clone().ok_or(now_ns));
        name
    }

    fn podman_name(&mut self, id: &str, now_ns: i64) -> Option<String> {
        let due = self.podman_read_at_ns.is_none_or(|at_ns| now_ns.saturating_sub(at_ns) >= READ_EVERY_NS);
        if due {
            self.podman_read_at_ns = Some(now_ns);
            self.podman_names = podman_names(&self.podman).unwrap_or_default();
        }
        self.podman_names.get(id).cloned()
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(rename = "Name")]
    name: String,
}

fn docker_name(folder: &Path, id: &str) -> Option<String> {
    let bytes = read(&folder.join(id).join("config.v2.json"))?;
    let config: DockerConfig = serde_json::from_slice(&bytes).ok()?;
    sound(config.name.strip_prefix('/').unwrap_or(&config.name))
}

#[derive(Deserialize)]
struct PodmanContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

fn podman_names(file: &Path) -> Option<HashMap<String, String>> {
    let containers: Vec<PodmanContainer> = serde_json::from_slice(&read(file)?).ok()?;
    let name = |container: PodmanContainer| Some((container.id, sound(container.names.first()?)?));
    Some(containers.into_iter().take(IDS_MAX).filter_map(name).collect())
}

/// A file's bytes, if nobody but its owner, who is who owns our own files or root, may write it.
fn read(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let ours = metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_file() || !ours || metadata.mode() & OTHERS_WRITE != 0 || metadata.len() > BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn sound(name: &str) -> Option<String> {
    let good =
        !name.is_empty() && name.len() <= limits::NAME_BYTES_MAX && !name.chars().any(char::is_control);
    good.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const S: i64 = 1_000_000_000;

    fn id(digit: char) -> String {
        digit.to_string().repeat(ID_LENGTH)
    }

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn names(&self) -> ContainerNames {
            ContainerNames::new(self.0.path().join("docker"), self.0.path().join("containers.json"))
        }

        fn docker(&self, id: &str, config: &str) -> PathBuf {
            let folder = self.0.path().join("docker").join(id);
            fs::create_dir_all(&folder).unwrap();
            write(&folder.join("config.v2.json"), config)
        }

        fn podman(&self, containers: &str) -> PathBuf {
            write(&self.0.path().join("containers.json"), containers)
        }
    }

    fn write(path: &Path, text: &str) -> PathBuf {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_owned()
    }

    #[test]
    fn docker_and_podman_name_their_containers() {
        let host = Host::new();
        let (web, job) = (id('a'), id('b'));
        host.docker(
            &web,
            &format!(r#"{{"StreamConfig":{{}},"ID":"{web}","Name":"/web","Config":{{"Env":["NAME=x"]}}}}"#),
        );
        host.podman(&format!(
            r#"[{{"id":"{}","image":"i","layer":"l","created":"2026-01-01T00:00:00Z"}},
                {{"id":"{job}","names":["train","other"],"image":"i"}}]"#,
            id('c')
        ));
        let mut names = host.names();
        assert_eq!(
            [&web, &job, &id('c')].map(|id| names.get(id, 0)),
            [Some("web".into()), Some("train".into()), None]
        );
    }

    #[test]
    fn a_name_is_kept_and_an_unknown_id_is_looked_for_again_after_ten_seconds() {
        let host = Host::new();
        let mut names = host.names();
        assert_eq!(names.get(&id('a'), 0), None);
        host.docker(&id('a'), r#"{"Name":"/late"}"#);
        assert_eq!(names.get(&id('a'), 10 * S - 1), None);
        assert_eq!(names.get(&id('a'), 10 * S).as_deref(), Some("late"));
        host.docker(&id('a'), r#"{"Name":"/renamed"}"#);
        assert_eq!(names.get(&id('a'), 100 * S).as_deref(), Some("late"));
    }

    #[test]
    fn what_others_may_write_and_what_is_no_such_file_name_nobody() {
        let host = Host::new();
        let file = host.docker(&id('a'), r#"{"Name":"/web"}"#);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        for (digit, config) in
            [('b', "{"), ('c', r#"{"Name":""}"#), ('d', r#"{"Name":"/a\u0007"}"#), ('e', "[]")]
        {
            host.docker(&id(digit), config);
        }
        let long = File::create(host.docker(&id('f'), "{}")).unwrap();
        long.set_len(BYTES_MAX + 1).unwrap();
        host.podman("{\"id\":1}");
        let mut names = host.names();
        for digit in ['a', 'b', 'c', 'd', 'e', 'f'] {
            assert_eq!(names.get(&id(digit), 0), None, "{digit}");
        }
    }

    #[test]
    fn an_id_that_is_none_opens_no_file() {
        let host = Host::new();
        host.docker("x", r#"{"Name":"/web"}"#);
        let mut names = host.names();
        for id in ["x", "../docker/x", "", &"/".repeat(ID_LENGTH)] {
            assert_eq!(names.get(id, 0), None, "{id}");
        }
        assert!(names.names.is_empty());
    }

    #[test]
    fn ids_that_are_remembered_have_a_limit() {
        let mut names = Host::new().names();
        for n in 0..=IDS_MAX {
            assert_eq!(names.get(&format!("{n:064x}"), 0), None);
        }
        assert!(names.names.len() <= IDS_MAX);
    }
}
