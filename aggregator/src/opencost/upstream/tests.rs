//! Against a real server on loopback that is slow, broken, or worse.

use std::collections::VecDeque;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tonnage_runtime::clock::{Reading, write_simulated};

use super::*;
use crate::opencost::params::Request;

const S: i64 = 1_000_000_000;
const GOOD: &str = r#"{"code":200,"data":[{"ml":{"cpuCost":1.5}}]}"#;

#[derive(Debug, Clone, Copy)]
enum Mood {
    /// 200, with this body.
    Says(&'static str),
    Failing,
    NotFound,
    /// Accepts, and says nothing.
    Silent,
    HangsUp,
    /// A body without an end.
    Endless,
}

/// A mood for each request, the last for all further ones.
#[derive(Debug)]
struct Server {
    moods: Mutex<VecDeque<Mood>>,
    requests: Mutex<Vec<String>>,
}

struct Site {
    server: Arc<Server>,
    upstream: Arc<Upstream>,
    clock: tempfile::NamedTempFile,
}

impl Server {
    async fn serve(self: Arc<Self>, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut first = String::new();
        stream.read_line(&mut first).await?;
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 2 {
            line.clear();
        }
        let mood = {
            let mut moods = self.moods.lock().unwrap();
            if moods.len() > 1 { moods.pop_front().unwrap() } else { moods[0] }
        };
        self.requests.lock().unwrap().push(first);
        let mut say = async |status: &str, body: &str| {
            let length = body.len();
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await
        };
        match mood {
            Mood::Says(body) => say("200 OK", body).await,
            Mood::Failing => say("503 Service Unavailable", "sorry").await,
            Mood::NotFound => say("404 Not Found", "").await,
            Mood::HangsUp => Ok(()),
            // Until the other side hangs up.
            Mood::Silent => stream.read_line(&mut line).await.map(|_| ()),
            Mood::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{").await?;
                loop {
                    stream.write_all(&[b' '; 65_536]).await?;
                }
            }
        }
    }
}

async fn site(moods: &[Mood]) -> Site {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let moods = Mutex::new(moods.iter().copied().collect());
    let server = Arc::new(Server { moods, requests: Mutex::default() });
    let serving = Arc::clone(&server);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(Arc::clone(&serving).serve(stream));
        }
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    set(&file, 0);
    let mut upstream = Upstream::new(address, Clock::simulated(file.path()).unwrap(), Arc::default());
    let quick = Duration::from_millis(5);
    // A first answer is waited for as long as a loaded machine needs.
    upstream.pace = Pace {
        timeout: Duration::from_secs(20),
        first_wait: Duration::from_secs(60),
        backoff: quick,
        backoff_max: quick,
    };
    Site { server, upstream: Arc::new(upstream), clock: file }
}

fn set(file: &tempfile::NamedTempFile, seconds: i64) {
    let ns = seconds * S;
    // 1970-01-02 and on: windows need a past.
    let reading = Reading { wall_ns: ns + 86_400 * S, monotonic_ns: ns, boot_ns: ns };
    write_simulated(file.as_file(), reading).unwrap();
}

fn question(query: &str) -> Question {
    Question::Allocations(Request::read(&format!("http://x/allocation?{query}").parse().unwrap()).unwrap())
}

impl Site {
    async fn get(&self, query: &str) -> Known {
        self.ask(question(query)).await
    }

    async fn ask(&self, question: Question) -> Known {
        let plan = question.plan(self.upstream.clock.wall_ns()).unwrap();
        self.upstream.get(&question, &plan).await
    }

    fn asked(&self) -> usize {
        self.server.requests.lock().unwrap().len()
    }

    fn becomes(&self, mood: Mood) {
        *self.server.moods.lock().unwrap() = VecDeque::from([mood]);
    }

    /// Waits until `is`; whoever waits for ever has failed.
    async fn until(&self, is: impl Fn(&Self) -> bool) {
        let long = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), long).await.unwrap();
    }

    fn at_rest(&self) -> bool {
        self.upstream.lock().values().all(|entry| !entry.fetching)
    }
}

fn cost(known: &Known) -> Option<i128> {
    known.answer.as_ref().map(|answer| answer.sets[0]["ml"].get("cpuCost").0)
}

const FIXED: &str = "window=0,900&aggregate=namespace";

#[tokio::test]
async fn an_answer_is_kept_for_five_minutes_and_fetched_anew_before_they_are_over() {
    let site = site(&[Mood::Says(GOOD)]).await;
    let known = site.get(FIXED).await;
    assert_eq!((cost(&known), known.age_seconds, known.warnings.len()), (Some(1_500_000_000), Some(0), 0));
    set(&site.clock, 239);
    assert_eq!(site.get(FIXED).await.age_seconds, Some(239));
    assert_eq!(site.asked(), 1);
    let stop = Shutdown::new();
    tokio::spawn(Arc::clone(&site.upstream).tend(stop.clone()));
    set(&site.clock, 240);
    site.until(|site| site.asked() == 2 && site.at_rest()).await;
    assert_eq!(site.get(FIXED).await.age_seconds, Some(0));
    // Nobody asks any more.
    set(&site.clock, 240 + 3_601);
    site.until(|site| site.upstream.lock().is_empty()).await;
    assert_eq!(site.asked(), 2);
    stop.set();
    let asked = site.server.requests.lock().unwrap()[0].clone();
    assert!(
        asked.starts_with("GET /allocation?window=0,900&aggregate=namespace&includeIdle=false"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_failure_is_said_at_once_and_tried_again_three_times_in_all() {
    let site = site(&[Mood::Failing, Mood::HangsUp, Mood::Says(GOOD)]).await;
    let known = site.get(FIXED).await;
    // Or the next tries were quicker than this one's news.
    if known.answer.is_none() {
        assert!(known.warnings[0].contains("shown as 0"), "{known:?}");
    }
    site.until(Site::at_rest).await;
    assert_eq!((cost(&site.get(FIXED).await), site.asked()), (Some(1_500_000_000), 3));

    let site = self::site(&[Mood::Failing]).await;
    site.get(FIXED).await;
    site.until(Site::at_rest).await;
    let known = site.get(FIXED).await;
    assert!(known.warnings[0].contains("it answered 503"), "{known:?}");
    assert_eq!(site.asked(), 3);
    set(&site.clock, 30);
    site.get(FIXED).await;
    site.until(|site| site.asked() == 6 && site.at_rest()).await;
}

#[tokio::test]
async fn what_is_wrong_with_an_answer_is_said() {
    for (mood, tries, said) in [
        (Mood::Says("<html>"), 1, "its answer is not OpenCost's"),
        (Mood::Says(r#"{"code":200,"data":[]}"#), 1, "has 0 sets; 1 were asked for"),
        (Mood::NotFound, 1, "it answered 404"),
        (Mood::HangsUp, 3, "the connection failed"),
        (Mood::Endless, 1, "has more than 33554432 bytes"),
    ] {
        let site = site(&[mood]).await;
        site.get(FIXED).await;
        site.until(Site::at_rest).await;
        let known = site.get(FIXED).await;
        assert!(known.answer.is_none() && known.warnings[0].contains(said), "{mood:?}: {known:?}");
        assert_eq!(site.asked(), tries, "{mood:?}");
    }
    let bad = r#"{"code":200,"data":[{"ml":{"cpuCost":1.5},"x":{"ramCost":-1}}]}"#;
    let known = site(&[Mood::Says(bad)]).await.get(FIXED).await;
    assert_eq!(cost(&known), Some(1_500_000_000));
    assert!(known.warnings[0].contains("1 items") && known.warnings[0].contains("negative"), "{known:?}");
}

#[tokio::test]
async fn nobody_waits_for_an_upstream_that_does_not_answer() {
    let mut site = site(&[Mood::Silent]).await;
    let short = Duration::from_millis(20);
    let upstream = Arc::get_mut(&mut site.upstream).unwrap();
    upstream.pace = Pace { first_wait: short, ..upstream.pace };
    let known = site.get(FIXED).await;
    assert!(known.warnings[0].contains("it has not answered yet"), "{known:?}");

    let mut site = self::site(&[Mood::Silent]).await;
    let upstream = Arc::get_mut(&mut site.upstream).unwrap();
    upstream.pace = Pace { timeout: short, ..upstream.pace };
    let known = site.get(FIXED).await;
    assert!(known.warnings[0].contains("it did not answer within 20ms"), "{known:?}");
}

#[tokio::test]
async fn an_old_answer_is_shown_as_old_and_after_an_hour_not_at_all() {
    let site = site(&[Mood::Says(GOOD)]).await;
    site.get(FIXED).await;
    site.becomes(Mood::Failing);
    set(&site.clock, 301);
    site.get(FIXED).await;
    site.until(Site::at_rest).await;
    let known = site.get(FIXED).await;
    assert_eq!((cost(&known), known.age_seconds), (Some(1_500_000_000), Some(301)));
    let warning = &known.warnings[0];
    assert!(warning.contains("are 301 s old: it answered 503"), "{warning}");
    set(&site.clock, 3_600);
    let known = site.get(FIXED).await;
    assert!(known.answer.is_none() && known.warnings[0].contains("shown as 0"), "{known:?}");
}

#[tokio::test]
async fn a_window_that_moves_on_keeps_its_figures_until_there_are_new_ones() {
    let site = site(&[Mood::Says(GOOD)]).await;
    let moving = "window=1h&aggregate=namespace";
    assert!(site.get(moving).await.warnings.is_empty());
    site.becomes(Mood::Failing);
    set(&site.clock, 900);
    let known = site.get(moving).await;
    assert_eq!(cost(&known), Some(1_500_000_000));
    assert!(known.warnings.iter().any(|warning| warning.contains("ends 900 s earlier")), "{known:?}");
    site.until(Site::at_rest).await;
    set(&site.clock, 1_800);
    assert!(site.get(moving).await.answer.is_none());
    site.until(Site::at_rest).await;
    site.becomes(Mood::Says(GOOD));
    set(&site.clock, 1_840);
    site.get(moving).await;
    site.until(Site::at_rest).await;
    let known = site.get(moving).await;
    assert!(known.answer.is_some() && known.warnings.is_empty(), "{known:?}");
}

#[tokio::test]
async fn questions_are_forgotten_before_they_are_too_many() {
    let site = site(&[Mood::Says(GOOD)]).await;
    for at in 0..ENTRIES_MAX + 10 {
        set(&site.clock, i64::try_from(at).unwrap());
        assert!(site.get(&format!("window=0,900&aggregate=label:a{at}")).await.answer.is_some());
    }
    let entries = site.upstream.lock();
    assert_eq!(entries.len(), ENTRIES_MAX);
    assert!(!entries.contains_key(&question("window=0,900&aggregate=label:a0")));
}
