//! A metadata service as the three clouds have them, at its real address. It refuses what the real ones refuse: AWS's
//! without a token, Google's and Azure's without their headers. It can be slow, broken, or worse.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Where it listens.
pub(crate) const ADDRESS: &str = "169.254.169.254";
const TOKEN: &str = "AQAEAFxSbG9uZy10b2tlbg==";

/// What it does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Aws,
    Gcp,
    Azure,
    /// Accepts and says nothing.
    Silent,
    /// 500.
    Failing,
    /// Sends elsewhere, to itself.
    Redirecting,
    /// A body without an end.
    HugeBody,
    /// A head without an end.
    HugeHead,
    /// Bytes that are no HTTP.
    Rubbish,
    /// AWS's answers, with names that cannot stand in a batch.
    Hostile,
}

/// See the module. Its threads end with the test's process.
#[derive(Debug, Clone)]
pub(crate) struct Imds {
    /// What is done with further requests; the first of these is used up by one request each but for the last.
    moods: Arc<Mutex<Vec<Mood>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Imds {
    /// Listens, and treats requests by these moods: one each, and all further ones by the last.
    pub(crate) fn start(moods: &[Mood]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((ADDRESS, 80))?;
        let imds = Self { moods: Arc::new(Mutex::new(moods.to_vec())), requests: Arc::default() };
        let served = imds.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                // Whoever hangs up early is no failure of this.
                thread::spawn(move || served.serve(stream).ok());
            }
        });
        Ok(imds)
    }

    /// From now on it is like this.
    pub(crate) fn set(&self, mood: Mood) {
        *self.moods.lock().unwrap() = vec![mood];
    }

    /// Every request's first line so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn next_mood(&self) -> Mood {
        let mut moods = self.moods.lock().unwrap();
        if moods.len() > 1 { moods.remove(0) } else { moods[0] }
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let first = head.first().cloned().unwrap_or_default();
        self.requests.lock().unwrap().push(first.clone());
        let has = |header: &str| head.iter().any(|line| line.eq_ignore_ascii_case(header));
        let mut stream = stream;
        let mut say = |status: &str, headers: &str, body: &str| {
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}")
        };
        let mood = self.next_mood();
        match mood {
            Mood::Aws | Mood::Hostile => match aws(&first, has, mood == Mood::Hostile) {
                Ok(body) => say("200 OK", "", &body),
                Err(status) => say(status, "", ""),
            },
            Mood::Gcp if !has("metadata-flavor: Google") => say("403 Forbidden", "", ""),
            Mood::Gcp => match gcp(&first) {
                Some(body) => say("200 OK", "Metadata-Flavor: Google\r\n", body),
                None => say("404 Not Found", "Metadata-Flavor: Google\r\n", ""),
            },
            Mood::Azure if !has("metadata: true") => say("400 Bad Request", "", ""),
            Mood::Azure if first.starts_with("GET /metadata/instance?api-version=2021-02-01 ") => {
                say("200 OK", "content-type: application/json\r\n", AZURE)
            }
            Mood::Azure => say("404 Not Found", "", ""),
            // Until the other side hangs up.
            Mood::Silent => stream.read_to_end(&mut Vec::new()).map(|_| ()),
            Mood::Failing => say("500 Internal Server Error", "", "sorry"),
            Mood::Redirecting => say("302 Found", &format!("location: http://{ADDRESS}/stolen\r\n"), ""),
            Mood::HugeBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                loop {
                    stream.write_all(&[b'x'; 4096])?;
                }
            }
            Mood::HugeHead => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
                loop {
                    stream.write_all(b"x-more: and more, and more, and more\r\n")?;
                }
            }
            Mood::Rubbish => stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff"),
        }
    }
}

fn aws(first: &str, has: impl Fn(&str) -> bool, hostile: bool) -> Result<String, &'static str> {
    if first.starts_with("PUT /latest/api/token ") {
        return Ok(TOKEN.to_owned());
    }
    if !has(&format!("x-aws-ec2-metadata-token: {TOKEN}")) {
        return Err("401 Unauthorized");
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let known = [
        ("instance-id", "i-0123456789abcdef0"),
        ("instance-type", "p5.48xlarge"),
        ("placement/region", "eu-north-1"),
        ("placement/availability-zone", "eu-north-1b"),
        ("instance-life-cycle", "spot"),
    ];
    let asked = path.strip_prefix("/latest/meta-data/").unwrap_or_default();
    let found = known.into_iter().find(|(name, _)| *name == asked).ok_or("404 Not Found")?;
    Ok(if hostile { "x".repeat(300) } else { found.1.to_owned() })
}

fn gcp(first: &str) -> Option<&'static str> {
    let asked = first.split(' ').nth(1)?.strip_prefix("/computeMetadata/v1/instance/")?;
    let known = [
        ("id", "4520031799277581759"),
        ("machine-type", "projects/123456789/machineTypes/a3-highgpu-8g"),
        ("zone", "projects/123456789/zones/europe-west4-b"),
        ("scheduling/preemptible", "FALSE"),
    ];
    known.into_iter().find(|(name, _)| *name == asked).map(|(_, value)| value)
}

const AZURE: &str = r#"{"compute":{"azEnvironment":"AzurePublicCloud","location":"westeurope","name":"gpu-0",
    "priority":"Regular","vmId":"02aab8a4-74ef-476e-8182-f6d2ba4166a6","vmSize":"Standard_ND96isr_H100_v5",
    "zone":"2"},"network":{"interface":[]}}"#;
