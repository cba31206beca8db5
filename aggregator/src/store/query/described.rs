//! How pods and namespaces were, for grouping and filtering by it: as of each slot.
//!
//! Few pods ever change, and only at slots' edges. So a window is cut where one did ([`Described::pieces`]), and each piece
//! is summed from the widest rows in it, as any window is. Where slots are no longer kept a piece is at least the hour, or the
//! day, in which something changed, and all of it is as its end was.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tonnage_proto::limits::{DAY_NS, HOUR_NS};

use super::cost::QueryError;
use super::ranges::Kept;
use crate::budgets::Labels;
use crate::model::{Description, Owner, SubjectKind, TeamSource, Teams};
use crate::store::StoreError;
use crate::store::sql::{self, Connection, params};

/// What is known of all subjects of a window. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Described(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    teams: Teams,
    clusters: HashMap<String, Cluster>,
    /// When any of them changed.
    changes: BTreeSet<i64>,
}

#[derive(Debug, Default)]
struct Cluster {
    /// By UID.
    pods: HashMap<String, Arc<Versions>>,
    /// Of owners without a UID: by namespace and name, unless several had it in the window.
    named: HashMap<(String, String), Option<Arc<Versions>>>,
    namespaces: HashMap<String, Arc<Versions>>,
}

#[derive(Debug, Default)]
struct Versions {
    /// Of a pod.
    namespace: String,
    /// By the time from which they hold.
    versions: Vec<(i64, Arc<Description>)>,
}

impl Versions {
    fn at(&self, at_ns: i64) -> Option<&Arc<Description>> {
        let before = self.versions.partition_point(|(from_ns, _)| *from_ns <= at_ns);
        self.versions.get(before.checked_sub(1)?).map(|(_, description)| description)
    }
}

/// What is said of an owner at a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    pub pod: Option<Arc<Description>>,
    /// Of its namespace.
    pub namespace: Option<Arc<Description>>,
    /// Empty of none.
    pub team: String,
}

/// An owner as a row has it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnerNames<'a> {
    pub(super) cluster: &'a str,
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    pub(super) pod_uid: &'a str,
    pub(super) account: &'a str,
}

impl Described {
    /// All of it.
    #[must_use]
    pub fn told(&self, cluster: &str, owner: &Owner, at_ns: i64) -> Told {
        let Owner { namespace, pod, pod_uid, account, .. } = owner;
        let names = OwnerNames { cluster, namespace, pod, pod_uid, account };
        Told {
            pod: self.pod(&names, at_ns).cloned(),
            namespace: self.namespace(&names, at_ns).cloned(),
            team: self.team(&names, at_ns).unwrap_or_default().to_owned(),
        }
    }

    /// Of the pod at a time.
    pub(super) fn pod(&self, owner: &OwnerNames<'_>, at_ns: i64) -> Option<&Arc<Description>> {
        self.versions(owner)?.at(at_ns)
    }

    /// Of its namespace.
    pub(super) fn namespace(&self, owner: &OwnerNames<'_>, at_ns: i64) -> Option<&Arc<Description>> {
        let name = self.namespace_of(owner);
        self.0.clusters.get(owner.cluster)?.namespaces.get(name)?.at(at_ns)
    }

    /// By which a budget may be bound: of a pod whose UID is known, and of its namespace.
    pub(super) fn labels(&self, owner: &OwnerNames<'_>, at_ns: i64) -> Labels<'_> {
        // A name alone may be another pod's in another window, and whose usage is whose must not hang on what is asked.
        let by_uid = |_: &&Arc<Description>| !owner.pod_uid.is_empty();
        let pod = self.pod(owner, at_ns).filter(by_uid).map(|pod| &pod.labels);
        let namespace =
            self.0.clusters.get(owner.cluster).and_then(|all| all.namespaces.get(owner.namespace));
        Labels { pod, namespace: namespace.and_then(|all| all.at(at_ns)).map(|namespace| &namespace.labels) }
    }

    /// The same of the pod of an owner.
    #[must_use]
    pub fn labels_of(&self, cluster: &str, owner: &Owner, at_ns: i64) -> Labels<'_> {
        let Owner { namespace, pod, pod_uid, account, .. } = owner;
        self.labels(&OwnerNames { cluster, namespace, pod, pod_uid, account }, at_ns)
    }

    /// The first team that a source has.
    pub(super) fn team(&self, owner: &OwnerNames<'_>, at_ns: i64) -> Option<&str> {
        self.0.teams.sources.iter().find_map(|source| {
            let found = match source {
                TeamSource::Label(key) => self.pod(owner, at_ns).and_then(|pod| pod.labels.get(key)),
                TeamSource::NamespaceLabel(key) => {
                    self.namespace(owner, at_ns).and_then(|namespace| namespace.labels.get(key))
                }
                TeamSource::Namespaces => self.0.teams.namespaces.get(self.namespace_of(owner)),
                TeamSource::Accounts => self.0.teams.accounts.get(owner.account),
            };
            found.map(String::as_str).filter(|team| !team.is_empty())
        })
    }

    fn namespace_of<'a>(&'a self, owner: &OwnerNames<'a>) -> &'a str {
        match owner.namespace {
            "" => self.versions(owner).map_or("", |versions| versions.namespace.as_str()),
            known => known,
        }
    }

    fn versions(&self, owner: &OwnerNames<'_>) -> Option<&Versions> {
        let cluster = self.0.clusters.get(owner.cluster)?;
        if !owner.pod_uid.is_empty() {
            return cluster.pods.get(owner.pod_uid).map(|versions| &**versions);
        }
        // Only where somebody asks is a key made.
        let key = (owner.namespace.to_owned(), owner.pod.to_owned());
        if owner.pod.is_empty() { None } else { cluster.named.get(&key)?.as_deref() }
    }

    /// The window in pieces, in each of which nothing changes, nor do accounts at `others`, as far as its rows are kept.
    #[must_use]
    pub fn pieces(&self, (start_ns, end_ns): (i64, i64), others: &[i64], kept: &Kept) -> Vec<(i64, i64)> {
        let mut edges = BTreeSet::from([start_ns, end_ns]);
        for at_ns in self.0.changes.iter().chain(others) {
            let width_ns = if *at_ns < kept.hours_from_ns {
                DAY_NS
            } else if *at_ns < kept.slots_from_ns {
                HOUR_NS
            } else {
                1
            };
            let floor_ns = at_ns - at_ns.rem_euclid(width_ns);
            let ceil_ns = if floor_ns == *at_ns { floor_ns } else { floor_ns + width_ns };
            edges.extend([floor_ns, ceil_ns].into_iter().filter(|edge| start_ns < *edge && *edge < end_ns));
        }
        let edges: Vec<i64> = edges.into_iter().collect();
        edges.windows(2).map(|edge| (edge[0], edge[1])).collect()
    }
}

/// What is known of all subjects that were there in `[start_ns, end_ns)` and may hold a GPU. Asks `expired` now and then
/// whether to give up.
///
/// # Errors
/// If the store fails, a description in it is not readable, or `expired` says so.
pub fn described(
    connection: &Connection,
    (start_ns, end_ns): (i64, i64),
    teams: &Teams,
    expired: impl Fn() -> bool,
) -> Result<Described, QueryError> {
    let mut known = Known { teams: teams.clone(), ..Known::default() };
    let mut descriptions: HashMap<i64, Arc<Description>> = HashMap::new();
    let mut statement = connection.prepare_cached(
        "SELECT s.id, s.cluster, s.kind, s.name, s.namespace, s.pod, v.from_ns, v.description, d.json
         FROM subject s JOIN described v ON v.subject = s.id JOIN description d ON d.id = v.description
         WHERE v.from_ns < ?2 AND (s.ended_ns = 0 OR s.ended_ns >= ?1)
         AND (s.kind = 2 OR s.name IN (SELECT pod_uid FROM owner) OR s.pod IN (SELECT pod FROM owner WHERE pod_uid = ''))
         ORDER BY s.id, v.from_ns",
    )?;
    // The end of a pod is seen before its last usage has come.
    let mut rows = statement.query([start_ns.saturating_sub(HOUR_NS), end_ns])?;
    let mut subject: Option<(i64, [String; 4], SubjectKind, Versions)> = None;
    let mut seen = 0_u32;
    while let Some(row) = rows.next()? {
        if seen.is_multiple_of(4096) && expired() {
            return Err(QueryError::Expired);
        }
        seen = seen.wrapping_add(1);
        let (id, from_ns, number): (i64, i64, i64) = (row.get(0)?, row.get(6)?, row.get(7)?);
        let description = match descriptions.get(&number) {
            Some(description) => Arc::clone(description),
            None => {
                let description = Arc::new(parse(row.text(8)?.unwrap_or_default())?);
                descriptions.insert(number, Arc::clone(&description));
                description
            }
        };
        match &mut subject {
            Some((same, .., of)) if *same == id => {
                if from_ns > start_ns {
                    known.changes.insert(from_ns);
                }
                of.versions.push((from_ns, description));
            }
            _ => {
                let kind: i64 = row.get(2)?;
                let kind = SubjectKind::from_number(kind).ok_or(sql::Error::out_of_range(2, kind))?;
                // A pod holds nothing before it is made, so that this is no change, unless what was before went with a purge.
                if from_ns > start_ns && from_ns % DAY_NS == 0 {
                    known.changes.insert(from_ns);
                }
                let names: [String; 4] = [row.get(1)?, row.get(3)?, row.get(4)?, row.get(5)?];
                let versions =
                    Versions { namespace: names[2].clone(), versions: vec![(from_ns, description)] };
                if let Some((_, names, kind, versions)) = subject.replace((id, names, kind, versions)) {
                    known.add(names, kind, versions);
                }
            }
        }
    }
    if let Some((_, names, kind, versions)) = subject {
        known.add(names, kind, versions);
    }
    Ok(Described(Arc::new(known)))
}

/// What was ever told of one pod by its UID, and of one namespace.
///
/// # Errors
/// If the store fails, or a description in it is not readable.
pub fn described_pod(
    db: &Connection,
    cluster: &str,
    pod_uid: &str,
    namespace: &str,
) -> Result<Described, StoreError> {
    let mut known = Known::default();
    let mut statement = db.prepare_cached(
        "SELECT v.from_ns, d.json FROM subject s JOIN described v ON v.subject = s.id
         JOIN description d ON d.id = v.description
         WHERE s.cluster = ?1 AND s.kind = ?2 AND s.name = ?3 ORDER BY v.from_ns",
    )?;
    for (kind, name) in [(SubjectKind::Pod, pod_uid), (SubjectKind::Namespace, namespace)] {
        let rows = statement.query_map(params![cluster, kind as u8, name], |row| {
            Ok((row.get::<i64>(0)?, row.get::<String>(1)?))
        })?;
        let mut versions = Vec::new();
        for row in rows {
            let (from_ns, json) = row?;
            versions.push((from_ns, Arc::new(parse(&json)?)));
        }
        if !name.is_empty() && !versions.is_empty() {
            let names = [cluster, name, "", ""].map(str::to_owned);
            known.add(names, kind, Versions { namespace: namespace.to_owned(), versions });
        }
    }
    Ok(Described(Arc::new(known)))
}

impl Known {
    fn add(&mut self, [cluster, name, namespace, pod]: [String; 4], kind: SubjectKind, versions: Versions) {
        let cluster = self.clusters.entry(cluster).or_default();
        let versions = Arc::new(versions);
        match kind {
            SubjectKind::Namespace => {
                cluster.namespaces.insert(name, versions);
            }
            SubjectKind::Pod => {
                let one = Some(Arc::clone(&versions));
                cluster.named.entry((namespace, pod)).and_modify(|named| *named = None).or_insert(one);
                cluster.pods.insert(name, versions);
            }
        }
    }
}

fn parse(json: &str) -> Result<Description, StoreError> {
    serde_json::from_str(json).map_err(|e| StoreError::Damaged { what: "description", detail: e.to_string() })
}
